"""`recursor acp`: recursor as an agent in an editor (Agent Client Protocol), by the official package.

A session is a folder that the editor has open, and a conversation about it, whose REPL lives on. Each prompt is one run
over the folder; `recursor.hosted.shown` says what the editor is told of it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import acp
from acp import schema

from recursor.context import FolderSource, prepare
from recursor.errors import RLMError
from recursor.hosted.ending import on_signals
from recursor.hosted.lines import Lines
from recursor.hosted.logs import without_content
from recursor.hosted.shown import Shown, message
from recursor.hosted.texts import clean
from recursor.mcp import McpServer
from recursor.rlm import RLM
from recursor.sessions.session import Session
from recursor.threads import in_thread
from recursor.types import (
    Completion,
    RunEnded,
    StopReason,
)

IDLE = 900.0
"""Seconds after which the REPL of a conversation that nobody goes on with is ended, where it can be made again."""
STOPS: dict[StopReason, schema.StopReason] = {
    StopReason.MAX_TURNS: "max_turn_requests",
    StopReason.MAX_TOKENS: "max_tokens",
}


@dataclass
class Thread:
    """A conversation about folders."""

    chat: Session
    folders: list[Path]
    servers: list[McpServer]
    """Of tools, that the editor has described for it."""
    found: tuple[Any, ...] = ()
    """Their files as the REPL has them."""
    run: asyncio.Task[Completion] | None = None
    """The one that goes on."""


class Agent:
    """What the package calls for each request of the editor."""

    def __init__(self, rlm: RLM, *, recorded: bool) -> None:
        self._rlm = rlm
        self._recorded = recorded
        self._threads: dict[str, Thread] = {}
        self._editor: acp.Client

    def on_connect(self, conn: acp.Client) -> None:
        self._editor = conn

    async def initialize(self, protocol_version: int, **_: Any) -> schema.InitializeResponse:
        return schema.InitializeResponse(
            protocol_version=min(protocol_version, acp.PROTOCOL_VERSION),
            agent_capabilities=schema.AgentCapabilities(
                load_session=self._recorded,
                prompt_capabilities=schema.PromptCapabilities(embedded_context=True),
                mcp_capabilities=schema.McpCapabilities(http=True),
                session_capabilities=schema.SessionCapabilities(close=schema.SessionCloseCapabilities()),
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
        thread = self._thread(None, cwd, additional_directories, mcp_servers)
        return schema.NewSessionResponse(session_id=thread.chat.id)

    async def load_session(
        self,
        cwd: str,
        session_id: str,
        mcp_servers: Sequence[Any] | None = None,
        additional_directories: list[str] | None = None,
        **_: Any,
    ) -> schema.LoadSessionResponse:
        """Go on with a conversation that is recorded, and tell the editor what was said."""
        await self.close_session(session_id)
        thread = self._thread(session_id, cwd, additional_directories, mcp_servers)
        if not thread.chat.history:
            del self._threads[session_id]
            raise _wrong(f"there is no session {session_id[:64]!r}")
        for turn in thread.chat.history:
            await self._tell(session_id, acp.update_user_message_text(clean(str(turn["question"]))))
            await self._tell(session_id, acp.update_agent_message_text(message(turn["answer"])))
        return schema.LoadSessionResponse()

    async def close_session(self, session_id: str, **_: Any) -> schema.CloseSessionResponse:
        """End a conversation; nothing is left but its record."""
        thread = self._threads.pop(session_id, None)
        if thread is not None:
            await _end(thread)
        return schema.CloseSessionResponse()

    async def prompt(self, session_id: str, prompt: Sequence[Any], **_: Any) -> schema.PromptResponse:
        """Answer a question by a run."""
        thread = self._threads.get(session_id)
        if thread is None:
            raise _wrong(f"there is no session {session_id[:64]!r}")
        if thread.run is not None:
            raise _wrong("this session is answering a prompt already")
        question, beside = _said(prompt)
        if not question.strip():
            raise _wrong("the prompt has no text")
        thread.run = run = asyncio.create_task(self._run(session_id, thread, question, beside))
        try:
            await asyncio.wait([run])
            if run.cancelled():
                return schema.PromptResponse(stop_reason="cancelled")
            done = run.result()
        except RLMError as error:
            raise acp.RequestError.internal_error({"details": clean(str(error))}) from error
        finally:
            run.cancel()
            thread.run = None
        answer = message(done.answer)
        if done.stop_reason is not StopReason.ANSWERED:
            answer += f"\n\n*A limit ended the run ({done.stop_reason}).*"
        await self._tell(session_id, acp.update_agent_message_text(answer))
        return schema.PromptResponse(stop_reason=STOPS.get(done.stop_reason, "end_turn"))

    async def cancel(self, session_id: str, **_: Any) -> None:
        """Stop the run that goes on."""
        thread = self._threads.get(session_id)
        if thread is not None and thread.run is not None:
            thread.run.cancel()

    async def close(self) -> None:
        """End all conversations."""
        await asyncio.gather(*(_end(thread) for thread in self._threads.values()), return_exceptions=True)

    def _thread(
        self, session_id: str | None, cwd: str, more: Sequence[str] | None, servers: Sequence[Any] | None
    ) -> Thread:
        """A conversation about a folder; the editor's servers of tools are tools of its runs."""
        folders = [Path(each) for each in (cwd, *(more or ()))]
        for folder in folders:
            if not folder.is_absolute() or not folder.is_dir():
                raise _wrong(f"{str(folder)!r} is no folder")
        try:
            tools = [_server(each) for each in servers or ()]
            rlm = self._rlm.with_changes(tools=tools) if tools else self._rlm
            chat = rlm.session(session_id, idle=IDLE if self._recorded else None)
        except RLMError as error:
            raise _wrong(str(error)) from error
        thread = self._threads[chat.id] = Thread(chat, folders, tools)
        return thread

    async def _run(self, session_id: str, thread: Thread, question: str, beside: list[Any]) -> Completion:
        context, found = await in_thread(_changed, thread)
        thread.found = ()
        asked: dict[str, Any] = {"question": question}
        if beside:
            asked = {"messages": [*beside, {"role": "user", "content": question}]}
        shown, done = Shown(), None
        async with aclosing(thread.chat.stream(context=context, **asked)) as events:
            async for event in events:
                for update in shown.updates(event):
                    await self._tell(session_id, update)
                if isinstance(event, RunEnded) and event.run_id == shown.run_id:
                    done = event.completion
        assert done is not None, "a stream that raises nothing ends in a completion"
        thread.found = found  # a turn that was undone took the folder with it
        return done

    async def _tell(self, session_id: str, update: Any) -> None:
        await self._editor.session_update(session_id, update)


async def serve(rlm: RLM, *, recorded: bool) -> None:
    """Answer one editor until it closes standard input, which with standard output is the protocol's alone.

    A signal ends the process, when the runs that go on have been stopped and recorded.

    Args:
        recorded: whether there is a store, from which conversations can be gone on with.
    """
    wire = os.dup(1)
    os.dup2(2, 1)
    agent, lines = Agent(rlm, recorded=recorded), Lines(0, wire)
    on_signals(agent.close)
    without_content(acp)
    try:
        await acp.run_agent(agent, lines, use_unstable_protocol=True)  # type: ignore[arg-type]
    finally:
        await agent.close()


async def _end(thread: Thread) -> None:
    if thread.run is not None:
        thread.run.cancel()
        await asyncio.wait([thread.run])
    await thread.chat.aclose()
    for server in thread.servers:
        await in_thread(server.close)


def _changed(thread: Thread) -> tuple[Path | list[Path] | None, tuple[Any, ...]]:
    """The folders, or None where the REPL has their files as they are; and these. Blocks."""
    context = thread.folders if len(thread.folders) > 1 else thread.folders[0]
    source = prepare(context)
    found = tuple(source.documents) if isinstance(source, FolderSource) else ()
    return (None if found and found == thread.found else context), found


def _wrong(why: str) -> acp.RequestError:
    return acp.RequestError.invalid_params({"details": clean(why)})


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
                raise _wrong(f"a prompt cannot have {kind} here")
    return "".join(words), beside


def _server(described: Any) -> McpServer:
    """A server of tools, as the editor describes it."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", described.name).strip("_0123456789")[:32] or "server"
    if hasattr(described, "command"):
        env = {each.name: each.value for each in described.env}
        return McpServer(name, command=[described.command, *described.args], env=env)
    headers = {each.name: each.value for each in described.headers}
    return McpServer(name, url=described.url, headers=headers)
