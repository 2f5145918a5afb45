"""`recursor acp`: recursor as an agent in an editor (Agent Client Protocol), by the official package.

A session is a folder that the editor has open, and what was said in it. Each prompt is one run over the folder: the
replies of the root LM come as thoughts, its blocks of code as tool calls, the answer as the message.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import acp
from acp import schema

from recursor.display import to_json
from recursor.errors import ConfigError, RLMError
from recursor.mcp import McpServer
from recursor.rlm import RLM
from recursor.types import (
    BatchAnnounced,
    BlockExecuted,
    Completion,
    Event,
    Execution,
    ModelCalled,
    ReplyText,
    RunEnded,
    RunStarted,
    StopReason,
)

SHOWN = 4_000
"""Characters of an output that an editor is shown."""
MAX_LINE = 64 << 20
"""Bytes of a message."""
EVERY = 25
"""Sub-calls between two words about them."""
STOPS: dict[StopReason, schema.StopReason] = {
    StopReason.MAX_TURNS: "max_turn_requests",
    StopReason.MAX_TOKENS: "max_tokens",
}


@dataclass
class Session:
    """A conversation about a folder."""

    rlm: RLM
    context: Path | list[Path]
    messages: list[dict[str, str]] = field(default_factory=list)
    run: asyncio.Task[Completion] | None = None
    """The one that goes on."""


class Agent:
    """What the package calls for each request of the editor."""

    def __init__(self, rlm: RLM) -> None:
        self._rlm = rlm
        self._sessions: dict[str, Session] = {}
        self._editor: acp.Client

    def on_connect(self, conn: acp.Client) -> None:
        self._editor = conn

    async def initialize(self, protocol_version: int, **_: Any) -> schema.InitializeResponse:
        return schema.InitializeResponse(
            protocol_version=min(protocol_version, acp.PROTOCOL_VERSION),
            agent_capabilities=schema.AgentCapabilities(
                prompt_capabilities=schema.PromptCapabilities(embedded_context=True),
                mcp_capabilities=schema.McpCapabilities(http=True),
            ),
            agent_info=schema.Implementation(
                name="recursor", title="recursor", version=metadata.version("recursor")
            ),
        )

    async def new_session(
        self,
        cwd: str,
        additional_directories: list[str] | None = None,
        mcp_servers: Sequence[Any] | None = None,
        **_: Any,
    ) -> schema.NewSessionResponse:
        """Begin a conversation about a folder; the editor's servers of tools are tools of its runs."""
        folders = [Path(each) for each in (cwd, *(additional_directories or ()))]
        for folder in folders:
            if not folder.is_absolute() or not folder.is_dir():
                raise acp.RequestError.invalid_params({"details": f"{str(folder)!r} is no folder"})
        try:
            tools = [_server(each) for each in mcp_servers or ()]
        except ConfigError as error:
            raise acp.RequestError.invalid_params({"details": str(error)}) from error
        session_id = uuid.uuid4().hex
        rlm = self._rlm.with_changes(tools=tools) if tools else self._rlm
        self._sessions[session_id] = Session(rlm, folders if len(folders) > 1 else folders[0])
        return schema.NewSessionResponse(session_id=session_id)

    async def prompt(self, session_id: str, prompt: Sequence[Any], **_: Any) -> schema.PromptResponse:
        """Answer a question by a run."""
        session = self._session(session_id)
        if session.run is not None:
            raise acp.RequestError.invalid_params({"details": "this session is answering a prompt already"})
        question, beside = _said(prompt)
        if not question.strip():
            raise acp.RequestError.invalid_params({"details": "the prompt has no text"})
        messages = [*session.messages, *beside, {"role": "user", "content": question}]
        session.run = asyncio.create_task(self._run(session_id, session, messages))
        try:
            await asyncio.wait([session.run])
            if session.run.cancelled():
                return schema.PromptResponse(stop_reason="cancelled")
            done = session.run.result()
        except RLMError as error:
            raise acp.RequestError.internal_error({"details": _clean(str(error))}) from error
        finally:
            session.run.cancel()
            session.run = None
        answer = (
            done.answer if isinstance(done.answer, str) else f"```json\n{to_json(done.answer, indent=2)}\n```"
        )
        if done.answer is None and done.stop_reason is not StopReason.ANSWERED:
            answer = "There is no answer."
        session.messages = [*messages, {"role": "assistant", "content": answer}]
        if done.stop_reason is not StopReason.ANSWERED:
            answer += f"\n\n*A limit ended the run ({done.stop_reason}).*"
        await self._tell(session_id, acp.update_agent_message_text(_clean(answer)))
        return schema.PromptResponse(stop_reason=STOPS.get(done.stop_reason, "end_turn"))

    async def cancel(self, session_id: str, **_: Any) -> None:
        """Stop the run that goes on."""
        run = self._session(session_id).run
        if run is not None:
            run.cancel()

    async def close(self) -> None:
        """Stop all runs."""
        runs = [session.run for session in self._sessions.values() if session.run is not None]
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)

    def _session(self, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise acp.RequestError.invalid_params({"details": f"there is no session {session_id[:64]!r}"})
        return session

    async def _run(self, session_id: str, session: Session, messages: list[dict[str, str]]) -> Completion:
        shown, done = Shown(), None
        async with aclosing(session.rlm.stream(messages=messages, context=session.context)) as events:
            async for event in events:
                for update in shown.updates(event):
                    await self._tell(session_id, update)
                if isinstance(event, RunEnded) and event.run_id == shown.run_id:
                    done = event.completion
        assert done is not None, "a stream that raises nothing ends in a completion"
        return done

    async def _tell(self, session_id: str, update: Any) -> None:
        await self._editor.session_update(session_id, update)


class Shown:
    """What an editor is shown of one run; children and their calls are counted."""

    def __init__(self) -> None:
        self.run_id = ""
        self._calls = 0
        self._batch = ""
        """The tool call that tells of the sub-calls that are out."""

    def updates(self, event: Event) -> list[Any]:
        """What to say of an event."""
        match event:
            case RunStarted() if not self.run_id:
                self.run_id = event.run_id
            case ReplyText() if event.run_id == self.run_id:
                return [acp.update_agent_thought_text(_clean(event.text))]
            case BatchAnnounced() if event.run_id == self.run_id and not self._batch:
                self._batch, self._calls = uuid.uuid4().hex, 0
                said = f"asks {event.model} {event.count:,} times"
                return [acp.start_tool_call(self._batch, _clean(said), kind="think", status="in_progress")]
            case ModelCalled(purpose="sub") if self._batch:
                self._calls += 1
                if self._calls % EVERY == 0:
                    return [
                        acp.update_tool_call(self._batch, title=f"{self._calls:,} sub-calls are answered")
                    ]
            case BlockExecuted() if event.run_id == self.run_id:
                return [*self._ended(), _block(f"{event.turn}.{event.block}", event.execution)]
        return []

    def _ended(self) -> list[Any]:
        if not self._batch:
            return []
        ended, self._batch = self._batch, ""
        return [acp.update_tool_call(ended, title=f"{self._calls:,} sub-calls", status="completed")]


class Lines:
    """Messages as lines of JSON: a transport of the package. What is no message is left out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, message: dict[str, Any]) -> None:
        self._writer.write(json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n")
        await self._writer.drain()

    async def receive(self) -> dict[str, Any] | None:
        while line := await self._line():
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if _is_message(message):
                found: dict[str, Any] = message
                return found
        return None

    async def close(self) -> None:
        self._writer.close()

    async def _line(self) -> bytes:
        """The next line; empty at the end."""
        while True:
            try:
                return await self._reader.readline()
            except ValueError:  # it is too long
                continue


async def serve(rlm: RLM) -> None:
    """Answer one editor until it closes standard input, which with standard output is the protocol's alone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_LINE)
    await loop.connect_read_pipe(partial(asyncio.StreamReaderProtocol, reader), sys.stdin)
    wire = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, wire)
    agent = Agent(rlm)
    try:
        await acp.run_agent(agent, Lines(reader, asyncio.StreamWriter(transport, protocol, None, loop)))  # type: ignore[arg-type]
    finally:
        await agent.close()


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("id"), str | int | None)
        and isinstance(value.get("method", ""), str)
    )


def _block(number: str, execution: Execution) -> Any:
    """A block of code and what came of it."""
    output = execution.output
    printed = output.head[:SHOWN]
    if output.total > len(printed):
        printed += f"\n[{output.total - len(printed):,} more characters]"
    parts = [f"{_fenced(execution.code, 'python')}"]
    parts += [_fenced(each, "") for each in (printed.rstrip(), (execution.error or "")[-SHOWN:]) if each]
    title = next((line.strip() for line in execution.code.splitlines() if line.strip()), "code")
    content = acp.tool_content(acp.text_block(_clean("\n".join(parts))))
    return acp.start_tool_call(
        f"block-{number}-{uuid.uuid4().hex[:8]}", _clean(title[:100]), kind="execute",
        status="failed" if execution.error else "completed", content=[content],
    )  # fmt: skip


def _fenced(text: str, language: str) -> str:
    """Text in a fence that nothing in it closes."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _said(prompt: Sequence[Any]) -> tuple[str, list[dict[str, str]]]:
    """The question of a prompt, and the texts that came with it."""
    words: list[str] = []
    beside: list[dict[str, str]] = []
    for block in prompt:
        match block.type:
            case "text":
                words.append(block.text)
            case "resource_link":
                words.append(f"`{block.uri.removeprefix('file://')}`")
            case "resource" if isinstance(getattr(block.resource, "text", None), str):
                words.append(f"`{block.resource.uri.removeprefix('file://')}`")
                beside.append({"role": "user", "content": f"{block.resource.uri}:\n{block.resource.text}"})
            case kind:
                raise acp.RequestError.invalid_params({"details": f"a prompt cannot have {kind} here"})
    return "".join(words), beside


def _server(described: Any) -> McpServer:
    """A server of tools, as the editor describes it."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", described.name).strip("_0123456789")[:32] or "server"
    if hasattr(described, "command"):
        env = {each.name: each.value for each in described.env}
        return McpServer(name, command=[described.command, *described.args], env=env)
    headers = {each.name: each.value for each in described.headers}
    return McpServer(name, url=described.url, headers=headers)


def _clean(text: str) -> str:
    """Text without lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
