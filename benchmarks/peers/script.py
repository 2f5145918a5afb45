"""What the scripted model says: the same for all systems, in the form that each expects.

A question names its task, "task=calls:300"; any other question is answered in one turn. A prompt
that starts with "sub" is a sub-call; "sub50" takes 50 ms. "control: ..." is for the benchmark itself:
"reset" forgets requests, "hold" lets the second turn of "killed" wait until "release".
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence

from recursor.types import Message

TASK = re.compile(r"task=([a-z]+)(?::(\d+))?")
DSPY = "[[ ## "
"""Marks fields in dspy's prompts."""

CALLS = """import time
for _ in range(20):
    llm_query("sub: hello")
began = time.perf_counter()
for _ in range(COUNT):
    llm_query("sub: hello")
result = (time.perf_counter() - began) / COUNT"""
BATCH = """import time
prompts = [f"sub50: {index}" for index in range(COUNT)]
began = time.perf_counter()
replies = llm_query_batched(prompts)
result = time.perf_counter() - began
assert list(replies) == ["ok"] * COUNT, replies[:3]"""
FAN = """import time
began, spent = time.perf_counter(), time.process_time()
replies = llm_query_batched(PROMPTS)
assert len(replies) == TOTAL and set(replies) == {"ok"}, replies[:3]
result = [time.perf_counter() - began, time.process_time() - spent]"""
"""The seconds, and those of the REPL's own CPU."""
CHILDREN = """import time
began = time.perf_counter()
for index in range(COUNT):
    assert str(rlm_query(f"hello {index}")) == "done"
result = (time.perf_counter() - began) / COUNT"""
CHILDREN_BATCHED = """import time
began = time.perf_counter()
replies = rlm_query_batched([f"hello {index}" for index in range(COUNT)])
assert [str(each) for each in replies] == ["done"] * COUNT, replies[:3]
result = (time.perf_counter() - began) / COUNT"""
NESTED = """import time
began = time.perf_counter()
sums = rlm_query_batched([f"part {index}: task=middle:COUNT" for index in range(COUNT)])
assert sums == [COUNT] * COUNT, sums
result = time.perf_counter() - began"""
MIDDLE = """replies = rlm_query_batched([f"{index}: task=leaf" for index in range(COUNT)])
result = sum(replies)"""
HANDED = """import time
began = time.perf_counter()
length = rlm_query("task=size", context)
seconds = time.perf_counter() - began
assert length == len(context), length
result = seconds"""
THREADS = """import threading, time
barrier, replies = threading.Barrier(COUNT), [None] * COUNT
def ask(index):
    barrier.wait()
    replies[index] = llm_query(f"sub: {index}")
threads = [threading.Thread(target=ask, args=(index,)) for index in range(COUNT)]
began = time.perf_counter()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
seconds = time.perf_counter() - began
assert replies == ["ok"] * COUNT
result = seconds"""
LENGTH = """import time
result = f"{len(context)} {time.time()}\""""
HOLD = """import time
time.sleep(0.3)
result = f"{len(context)} {time.time()}\""""
NEEDLE = "The keeper\u2019s lamp burnt 7341 nights \u2013 no more."
PATTERN = r"\b[A-Z][a-z\u00e9]+ow\b"
LARGE = f"""import hashlib, re

def measured(text):
    places, position = [], text.find({NEEDLE!r})
    while position >= 0:
        places.append(position)
        position = text.find({NEEDLE!r}, position + 1)
    around = "".join(text[place - 20 : place + 60] for place in places)
    starts = [match.start() for match in re.finditer({PATTERN!r}, text)]
    lines = text.lines() if hasattr(text, "lines") else text.split("\\n")
    middle = len(text) // 2
    return {{
        "length": len(text), "count": text.count({NEEDLE!r}), "places": places,
        "around": hashlib.sha256(around.encode()).hexdigest(),
        "matches": len(starts), "starts": sum(starts),
        "lines": sum(1 for line in lines if re.search({PATTERN!r}, line)),
        "middle": hashlib.sha256(text[middle : middle + 5000].encode()).hexdigest(), "end": text[-100:],
    }}

found = {{name: measured(text) for name, text in context.items()}} if isinstance(context, dict) else {{
    "": measured(context)}}
print(sum(each["count"] for each in found.values()), "one" + "-done")"""
LARGE_TURNS = (
    LARGE,
    """replies = llm_query_batched([f"sub: {place}" for each in found.values() for place in each["places"]])
print(len(replies), set(replies), "two" + "-done")""",
    "result = found",
)
# The marks of a turn are put together when the code runs, so that they stand in its output alone.
TURNS = (
    'print("turn", len(context), "one" + "-done")',
    'print(context[:200], "two" + "-done")',
    'result = "three turns"',
)


KILLED = (
    """replies = llm_query_batched([f"sub50: {index}" for index in range(COUNT)])
print(len(replies), "one" + "-done")""",
    "assert set(replies) == {'ok'}\nresult = len(replies)",
)
"""Two turns; the second waits while the server is told to "hold"."""


def _fan(prompts: str, total: str = "COUNT") -> str:
    return FAN.replace("PROMPTS", prompts).replace("TOTAL", total)


CODE = {
    "calls": CALLS, "batch": BATCH, "length": LENGTH, "hold": HOLD, "children": CHILDREN,
    "childbatch": CHILDREN_BATCHED, "nested": NESTED, "middle": MIDDLE, "leaf": "result = 1", "handed": HANDED,
    "size": "result = len(context)", "threads": THREADS,
    "fan": _fan('[f"sub50: {index}" for index in range(COUNT)]'),
    "listed": _fan('[f"sub: {index}" for index in range(COUNT)]'),
    "pairs": _fan('f"sub: {a} and {b}" for a in range(COUNT) for b in range(COUNT)', "COUNT ** 2"),
}  # fmt: skip
"""Task -> code, in which COUNT stands for the number that the task names."""

VARYING = re.compile(r"[\d,.]+|\bstr\b|\bText\b")
"""What may differ between the prompts over a small and a large text: numbers, and the name of its type."""

roots: list[tuple[float, int, int]] = []
"""Requests of root LMs since the last reset: the time by the monotonic clock, which all processes of a
machine share; the bytes of the messages as UTF-8; and these without what may vary."""


_released = asyncio.Event()
_released.set()


async def reply(messages: Sequence[Message]) -> str:
    """Answer one prompt."""
    last = messages[-1].content
    if last.startswith("sub"):
        if last.startswith("sub50"):
            await asyncio.sleep(0.05)
        return "ok"
    if last.startswith("control: "):
        return _control(last.removeprefix("control: "))
    whole = "\n".join(message.content for message in messages)
    roots.append((time.monotonic(), len(whole.encode()), len(VARYING.sub("", whole).encode())))
    if "task=killed" in whole and _turns_done(whole):
        await _released.wait()
    return _as_dspy(_code(whole)) if DSPY in whole else _as_repl(_code(whole))


def _control(command: str) -> str:
    said = json.dumps(roots)
    if command == "reset":
        roots.clear()
    if command == "hold":
        _released.clear()
    if command == "release":
        _released.set()
    return said


def _code(prompt: str) -> str:
    named = TASK.search(prompt)
    task, count = (named[1], int(named[2] or 0)) if named else ("turn", 0)
    turns = {"turns": TURNS, "large": LARGE_TURNS, "killed": KILLED}.get(task)
    code = turns[_turns_done(prompt)] if turns else CODE.get(task, 'result = "done"')
    return code.replace("COUNT", str(count))


def _turns_done(prompt: str) -> int:
    return 2 if "two-done" in prompt else 1 if "one-done" in prompt else 0


def _as_repl(code: str) -> str:
    submit = '\nanswer["content"] = result\nanswer["ready"] = True' if "result =" in code else ""
    return f"Next step.\n```repl\n{code}{submit}\n```"


def _as_dspy(code: str) -> str:
    submit = "\nSUBMIT(answer=str(result))" if "result =" in code else ""
    return (
        f"[[ ## reasoning ## ]]\nNext step.\n\n[[ ## code ## ]]\n```python\n{code}{submit}\n```\n\n"
        "[[ ## completed ## ]]"
    )
