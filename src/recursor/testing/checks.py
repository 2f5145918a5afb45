"""Checks of the protocols, for whoever implements one. Plain assertions that say what is wrong."""

from __future__ import annotations

import asyncio
from typing import Any

from recursor.context import prepare
from recursor.errors import SandboxError, SubcallError
from recursor.protocols import CopyableRepl, Model, Repl, Sandbox
from recursor.threads import in_thread
from recursor.types import Batch, Execution, LlmQuery, Message, Reply, RlmQuery, Subcall, ToolCall


async def check_model(model: Model) -> None:
    """Try a model against its contract with seven short calls, paid for where the model is.

    Raises:
        AssertionError: it breaks the contract; the text says where.
    """
    assert isinstance(model, Model), f"{model!r} has no name or no query"
    assert isinstance(model.name, str), f"the name must be a string, not {model.name!r}"
    assert model.name, "the name must not be empty"

    prompt = [Message("system", "Be brief."), Message("user", "Say hello.")]
    kept = list(prompt)
    _check_reply(await model.query(prompt), "a reply")
    assert prompt == kept, "query must leave the messages as they are"

    pieces: list[str] = []
    streamed = await model.query(tuple(prompt), on_text=pieces.append)
    _check_reply(streamed, "a streamed reply")
    assert "".join(pieces) == streamed.text, (
        f"what on_text was called with must be the reply's text: {''.join(pieces)!r} is not {streamed.text!r}"
    )

    odd = [
        Message("user", "Say hello. \x00 \ud800 \U0001f600"),
        Message("assistant", ""),
        Message("user", "Once more."),
    ]
    _check_reply(await model.query(odd), "a reply to text with NUL, a lone surrogate and an empty message")

    schema = {
        "type": "object",
        "properties": {"word": {"type": "string"}},
        "required": ["word"],
        "additionalProperties": False,
    }
    _check_reply(await model.query(prompt, schema=schema), "a reply to a prompt with a schema")

    for reply in await asyncio.gather(*(model.query(prompt) for _ in range(2))):
        _check_reply(reply, "one of two replies at once")

    call = asyncio.create_task(model.query(prompt))
    await asyncio.sleep(0)
    call.cancel()
    done, _ = await asyncio.wait({call}, timeout=5)
    assert done, "a cancelled query must end"


async def check_sandbox(sandbox: Sandbox) -> None:
    """Try a sandbox against its contract: what a REPL must do, whatever it is isolated by.

    Says nothing about isolation; `recursor doctor` does. A sandbox whose executions carry no
    readings of clocks repeats nothing, and is not tried for that; one whose REPLs cannot be copied,
    and say so, is not tried for that.

    Raises:
        AssertionError: it breaks the contract; the text says where.
    """
    repl = await sandbox.open(tools=["lookup"], context_size=100)
    try:
        await _check_contexts(repl)
        await _check_blocks(repl)
        await _check_subcalls(repl)
        await _check_batches(repl)
        await _check_handover(repl)
        await _check_answers(repl)
        await _check_interrupt(repl)
    finally:
        await repl.close()
    await repl.close()  # closing twice is allowed
    await _check_asynchronous(sandbox)
    await _check_repeats(sandbox)
    await _check_copies(sandbox)


class _Echo:
    """Answers every sub-call with what it asked, and keeps it."""

    def __init__(self) -> None:
        self.asked: list[Subcall] = []

    async def answer(self, subcall: Subcall) -> Any:
        self.asked.append(subcall)
        match subcall:
            case Batch(count=13):
                raise SubcallError("too many")
            case Batch():
                return None
            case LlmQuery(prompt="fail"):
                raise SubcallError("refused")
            case LlmQuery(prompt=prompt):
                return prompt
            case RlmQuery(question=question, context=context):
                return [question, None if context is None else await in_thread(context.value)]
            case ToolCall(name=name, args=args, kwargs=kwargs):
                return [name, args, dict(kwargs)]


async def _run(repl: Repl, code: str, *, max_time: float | None = 30.0) -> Execution:
    return await repl.execute(code, _Echo(), max_time=max_time)


async def _shows(repl: Repl, code: str, expected: str) -> None:
    execution = await _run(repl, code)
    shown = execution.output.head + execution.output.tail
    assert execution.error is None, f"{code!r} failed: {execution.error}"
    assert shown == expected, f"{code!r} showed {shown!r}, not {expected!r}"


async def _check_contexts(repl: Repl) -> None:
    for value in ("a\r\n\0é😀\ud800", b"\0\xff", [1, {"a": (2.5, None)}], {1: "x"}):
        info = await repl.load("context", prepare(value))
        assert info.name == "context", f"load must name the variable, not {info.name!r}"
        assert info.type == type(value).__name__, f"the type of {value!r} is told as {info.type!r}"
        execution = await _run(repl, "FINAL(context)")
        assert execution.submission is not None, f"{value!r} did not come back: {execution.error}"
        assert execution.submission.value == value, f"{value!r} came back as {execution.submission.value!r}"


async def _check_blocks(repl: Repl) -> None:
    await _shows(repl, "x = 1\ndef f(): return x\nprint('printed')\nf()", "printed\n1\n")
    await _shows(repl, "x = 2\nf()", "2\n")
    failed = await _run(repl, "kept = 3\n1 / 0")
    assert "ZeroDivisionError" in str(failed.error), f"an exception must be shown, not {failed.error!r}"
    await _shows(repl, "kept", "3\n")
    assert (await _run(repl, "import sys\nsys.exit()")).error, "sys.exit() must be an error that is shown"
    flood = await _run(repl, "print('x' * 1_000_000)")
    assert flood.output.total == 1_000_001, f"all characters must be counted, not {flood.output.total}"


async def _check_subcalls(repl: Repl) -> None:
    await _shows(repl, "llm_query('a'), await allm_query('b')", "('a', 'b')\n")
    await _shows(repl, "llm_query_batched(str(n) for n in range(3))", "['0', '1', '2']\n")
    await _shows(repl, "rlm_query('q', {1: (2,)})", "['q', {1: (2,)}]\n")
    await _shows(repl, "lookup(1, key=b'v')", "['lookup', (1,), {'key': b'v'}]\n")
    await _shows(repl, "try: llm_query('fail')\nexcept SubcallError as e: print(e)", "refused\n")


async def _check_batches(repl: Repl) -> None:
    host = _Echo()
    await repl.execute("r = llm_query_batched(['a', 'b', 'a'], dedupe=True)", host)
    assert host.asked[0] == Batch(2), f"a batch must be announced first, not {host.asked[0]!r}"
    assert len(host.asked) == 3, f"equal prompts must share a call: {host.asked!r}"
    host = _Echo()
    refused = await repl.execute("llm_query_batched(['a'] * 13)", host)
    assert "too many" in str(refused.error), f"a refused batch must raise, not {refused.error!r}"
    assert host.asked == [Batch(13)], "nothing of a refused batch may be sent"


async def _check_handover(repl: Repl) -> None:
    for value in ("é" * 100_000, b"\0\xff" * 100_000, list(range(50_000)), {"a": {1, 2}}):
        host = _Echo()
        await repl.load("given", prepare([value]))
        execution = await repl.execute("FINAL(rlm_query('q', given[0]))", host)
        assert execution.submission is not None, f"a child's context was lost: {execution.error}"
        assert execution.submission.value == ["q", value], "a child's context must arrive as it was"
        query = host.asked[0]
        assert isinstance(query, RlmQuery), f"rlm_query asked {query!r}"
    host = _Echo()
    code = "rlm_query('q', tools=[lookup], instruction='i', limits={'max_turns': 2})"
    execution = await repl.execute(code, host)
    wanted = RlmQuery("q", tools=("lookup",), instruction="i", limits={"max_turns": 2})
    assert host.asked == [wanted], f"what is said of a child must arrive: {host.asked!r}, {execution.error}"


async def _check_asynchronous(sandbox: Sandbox) -> None:
    repl = await sandbox.open(calls="await")
    try:
        await _shows(repl, "await llm_query('a'), await allm_query('b')", "('a', 'b')\n")
        await _shows(repl, "await llm_query_batched(['a', 'b'])", "['a', 'b']\n")
        await _shows(repl, "await rlm_query('q', 1)", "['q', 1]\n")
    finally:
        await repl.close()


async def _check_repeats(sandbox: Sandbox) -> None:
    code = "import random, time\nprint(random.random(), time.time(), time.monotonic())"
    shown: list[tuple[Any, ...]] = []
    for _ in range(2):
        repl = await sandbox.open(seed=7)
        try:
            readings = shown[0][1] if shown else ()
            execution = await repl.execute(code, _Echo(), readings=readings)
            shown.append((execution.output, execution.readings))
        finally:
            await repl.close()
    if shown[0][1]:
        assert shown[0] == shown[1], (
            f"seed and readings must repeat a block: {shown[1]!r} is not {shown[0]!r}"
        )


async def _check_copies(sandbox: Sandbox) -> None:
    repl = await sandbox.open(tools=["lookup"])
    try:
        if not isinstance(repl, CopyableRepl):
            return
        await _run(repl, "x = [1]")
        if not repl.copyable:
            await _check_refusal(repl)
            return
        fork = await repl.fork()
        try:
            await _check_fork(repl, fork)
        finally:
            await fork.close()
        await _check_snapshots(repl)
    finally:
        await repl.close()


async def _check_refusal(repl: CopyableRepl) -> None:
    repl.checkpoint()  # which does nothing there
    for attempt in (repl.fork, repl.snapshot):
        try:
            await attempt()
        except SandboxError:
            continue
        raise AssertionError("a REPL that says it cannot be copied must raise SandboxError")
    await _shows(repl, "x", "[1]\n")


async def _check_fork(repl: CopyableRepl, fork: CopyableRepl) -> None:
    await _shows(fork, "x.append(2); x", "[1, 2]\n")
    await _shows(repl, "x", "[1]\n")
    await _shows(fork, "llm_query('a'), lookup(1)", "('a', ['lookup', (1,), {}])\n")
    await _run(fork, "answer['content'] = 'theirs'")
    await fork.become(tools=[], seed=1, calls="plain")
    await _shows(fork, "answer['content'], 'lookup' in globals(), x", "(None, False, [1, 2])\n")
    host = _Echo()
    execution = await repl.execute("rlm_query('q', fork=True)", host)
    query = host.asked[0] if host.asked else None
    assert isinstance(query, RlmQuery), f"a child that begins as a copy was not asked for: {execution.error}"
    assert isinstance(query.fork, CopyableRepl), f"a child must get a copy of the REPL, not {query.fork!r}"


async def _check_snapshots(repl: CopyableRepl) -> None:
    snapshot = await repl.snapshot()
    for _ in range(2):
        await _shows(repl, "x.append(3); x", "[1, 3]\n")
        await repl.restore(snapshot)
        await _shows(repl, "x", "[1]\n")
    await snapshot.close()
    await snapshot.close()  # closing twice is allowed
    repl.checkpoint()
    died = await _run(repl, "x = 'spoilt'; import os; os._exit(0)")
    assert died.error, "a block in which the REPL dies must end in an error"
    assert died.notes, "a note must say what is left"
    await _shows(repl, "x", "[1]\n")


async def _check_answers(repl: Repl) -> None:
    stopped = await _run(repl, "answer['content'] = {1, 2}\nanswer['ready'] = True\nprint('after')")
    assert stopped.submission is not None, f"the answer was lost: {stopped.error}"
    assert stopped.submission.value == {1, 2}, f"the answer changed: {stopped.submission.value!r}"
    assert stopped.output.total == 0, "submitting must stop the block"
    assert (await _run(repl, "FINAL(object())")).error, "a value that cannot leave must be an error"
    await _run(repl, "answer['content'] = 'draft'")
    assert await repl.draft() == "draft", "the draft must be readable"


async def _check_interrupt(repl: Repl) -> None:
    await _run(repl, "state = 'kept'")
    execution = await _run(repl, "while True: pass", max_time=0.3)
    assert execution.error, "a block that runs too long must end in an error"
    assert execution.notes, "a note must say why a block was stopped"
    await _shows(repl, "print(context)", "{1: 'x'}\n")
    await _shows(repl, "state", "'kept'\n")


def _check_reply(reply: Reply, what: str) -> None:
    assert isinstance(reply, Reply), f"{what} must be a Reply, not {type(reply).__name__}"
    assert isinstance(reply.text, str), f"the text of {what} must be a string, not {reply.text!r}"
    usage = reply.usage
    assert usage.calls == 1, f"the usage of {what} must count one call, not {usage.calls}"
    counts = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )
    assert all(isinstance(count, int) and count >= 0 for count in counts), f"token counts of {what}: {usage}"
    assert usage.cached_tokens + usage.cache_write_tokens <= usage.input_tokens, (
        f"input tokens of {what} must include those of the cache: {usage}"
    )
    assert usage.reasoning_tokens <= usage.output_tokens, (
        f"output tokens of {what} must include reasoning: {usage}"
    )
    assert reply.cost is None or reply.cost >= 0, (
        f"the cost of {what} must be None or not negative: {reply.cost}"
    )
