"""An agent with tools, one of which is an RLM: it hands over what is too large for its own window.

    python examples/agent_with_rlm_tool.py                                        # against a server of its own, offline
    python examples/agent_with_rlm_tool.py gpt-5-mini https://api.openai.com/v1   # with a model (OPENAI_API_KEY)

The agent is a loop around plain calls of tools, as OpenAI's API has them; no framework. Offline, what its model and
the root LM say is scripted, and the calls, the files and the code in the sandbox are real.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recursor import RLM, Limits
from recursor.testing import ModelServer, ScriptedModel

TASK = "How many functions does Python's own email package define, and which of its modules has the most?"
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
TOOLS = [
    {"type": "function", "function": {
        "name": "list_folder", "description": "List the files of a folder of Python's library, with their sizes.",
        "parameters": {"type": "object", "properties": {"folder": {"type": "string"}}, "required": ["folder"]}}},
    {"type": "function", "function": {
        "name": "ask_over_folder", "description": "Answer a question over all files of a folder, of any size.",
        "parameters": {"type": "object", "required": ["folder", "question"],
                       "properties": {"folder": {"type": "string"}, "question": {"type": "string"}}}}},
]  # fmt: skip
AGENT: list[dict[str, Any]] = [
    {"tool_calls": [("list_folder", {"folder": "email"})]},
    {
        "tool_calls": [
            (
                "ask_over_folder",
                {"folder": "email", "question": "How many functions does each module define?"},
            )
        ]
    },
    {"content": "The tool has counted them: see above."},
]
"""What the agent's model says, turn by turn."""
ROOT = """```repl
import re
modules = {name: text for name, text in context.items() if name.endswith(".py")}
counts = {name: len(re.findall(r"^ *(?:async )?def ", text, re.MULTILINE)) for name, text in modules.items()}
most = max(counts, key=counts.get)
FINAL({"functions": sum(counts.values()), "modules": len(counts), "most": most, "in it": counts[most]})
```"""
"""What the root LM says."""


def main(arguments: Sequence[str]) -> None:
    """Let the agent do its task."""
    if len(arguments) == 2:
        name, url = arguments
        run(name, url, RLM(f"openai/{name}", base_url=url, limits=Limits(max_tokens=300_000)))
        return
    with ModelServer([]) as server:
        for said in AGENT:
            server.send_next(reply(said))
        run("some-model", server.url, RLM(ScriptedModel([ROOT])))


def run(name: str, url: str, rlm: RLM) -> None:
    """The agent: ask its model, do what it asks for, until it asks for nothing."""
    tools: dict[str, Callable[..., Any]] = {
        "list_folder": lambda folder: {path.name: path.stat().st_size for path in inside(folder).iterdir()},
        "ask_over_folder": lambda folder, question: rlm.completion(question, context=inside(folder)).answer,
    }
    messages: list[dict[str, Any]] = [{"role": "user", "content": TASK}]
    while True:
        said = ask(url, {"model": name, "messages": messages, "tools": TOOLS})
        messages.append(said)
        for call in said.get("tool_calls") or []:
            function = call["function"]
            result = json.dumps(tools[function["name"]](**json.loads(function["arguments"])))
            print(f"{function['name']}({function['arguments']}) -> {result[:150]}")
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result[:4000]})
        if not said.get("tool_calls"):
            print(said["content"])
            return


def inside(folder: str) -> Path:
    """A folder of the library, and of nothing else: the name comes from a model."""
    path = (LIBRARY / folder).resolve()
    if not path.is_relative_to(LIBRARY.resolve()):
        raise ValueError(f"{folder} is not in Python's library")
    return path


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """One call of the agent's model."""
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}",
    }
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as response:
        found: dict[str, Any] = json.load(response)["choices"][0]["message"]
        return found


def reply(said: dict[str, Any]) -> dict[str, Any]:
    """What the wire has for what the script says."""
    calls = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for number, (name, arguments) in enumerate(said.get("tool_calls", ()))
    ]
    message = {
        "role": "assistant",
        "content": said.get("content"),
        **({"tool_calls": calls} if calls else {}),
    }
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "some-model",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}],
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
