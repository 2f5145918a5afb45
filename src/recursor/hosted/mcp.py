"""What `recursor mcp` offers to a host: runs as tools, and recorded runs as resources.

Arguments come from a model and are checked; answers and trajectories are data of contexts and models and
are given as they are, but for lone surrogates, which no JSON carries. A request that is cancelled
ends its run.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from recursor.display import as_text, plain
from recursor.errors import ConfigError, RLMError, TrajectoryError
from recursor.hosted import arguments
from recursor.hosted.arguments import Ask, OfRun, Result, converted
from recursor.hosted.folders import Folders
from recursor.hosted.jobs import Job, Jobs, Outcome, answered
from recursor.hosted.texts import clean
from recursor.rlm import RLM
from recursor.threads import in_thread
from recursor.trajectory import view

CLIPPED = 40_000
"""Characters of an answer that are given at once."""
LISTED = 20
"""Runs that are listed as resources."""
WAIT = 300.0
"""Seconds that `result` waits at most."""
TICK = 0.5
"""Seconds between looks at a run that is followed."""
ALIVE = 5.0
"""Seconds without news after which a host is told that the run goes on."""
_URI = re.compile(r"recursor://runs/([0-9a-f]{4,32})(/answer|/json)?")
INSTRUCTIONS = (
    "recursor answers questions over inputs of any length (files, folders, long texts) without reading them into a "
    "prompt: a model writes code that searches them and asks other models about the pieces. Use `ask` for what may "
    "take up to some minutes; for longer work `start` it, look with `status`, and take its `result`."
)
Context: TypeAlias = ServerRequestContext[Any, Any]
Story: TypeAlias = Callable[[Path, str], str]
"""A store and the id of a run -> the run as text. Blocks."""


class Tools:
    """The tools and resources of one server.

    Args:
        folders: files that may be named.
        store: where runs are recorded; None keeps nothing but what is at work.
        story: tells a recorded run.
        most: runs at work at once.
    """

    def __init__(self, rlm: RLM, folders: Folders, store: Path | None, story: Story, most: int) -> None:
        self.jobs = Jobs(rlm, most)
        self._folders = folders
        self._store = store
        self._story = story
        self._calls: dict[str, Callable[[Context, Mapping[str, Any]], Awaitable[types.CallToolResult]]] = {
            "ask": self._ask, "start": self._start, "status": self._status, "result": self._result,
            "cancel": self._cancel,
        }  # fmt: skip

    def server(self) -> Server[Any]:
        """A server of the official package that offers them."""
        return Server(
            "recursor",
            version=metadata.version("recursor"),
            instructions=INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read,
        )

    # Tools ------------------------------------------------------------------------------------

    async def _list_tools(self, _: Context, __: Any) -> types.ListToolsResult:
        asked = arguments.described([str(folder) for folder in self._folders.allowed])
        reads = types.ToolAnnotations(read_only_hint=True)
        tools = [
            types.Tool(
                name="ask", title="Ask over inputs of any length", input_schema=asked, annotations=reads,
                description="Answer a question over files, folders or a text of any length, and wait for the answer. "
                "What is not text is in structuredContent.answer.",
            ),
            types.Tool(
                name="start", title="Start a long question", input_schema=asked, annotations=reads,
                description="As `ask`, in the background: returns the run_id at once. It ends with the server.",
            ),
            types.Tool(
                name="status", title="Look at a run", input_schema=arguments.of_run(), annotations=reads,
                description="How a run stands: state, turns, model calls, tokens, cost, what its code does.",
            ),
            types.Tool(
                name="result", title="Take the answer of a run", input_schema=arguments.RESULT, annotations=reads,
                description=f"The answer of a run that has ended. Long ones come {CLIPPED:,} characters at a time.",
            ),
            types.Tool(
                name="cancel", title="Stop a run", input_schema=arguments.of_run(),
                annotations=types.ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True),
                description="Stop a run that goes on. What it did stays recorded.",
            ),
        ]  # fmt: skip
        return types.ListToolsResult(tools=tools)

    async def _call(self, ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        call = self._calls.get(params.name)
        if call is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name[:100]!r}")
        try:
            return await call(ctx, params.arguments or {})
        except RLMError as error:  # for the model to read
            return _failed(str(error))

    async def _ask(self, ctx: Context, given: Mapping[str, Any]) -> types.CallToolResult:
        job = await self._begun(given)
        try:
            await _followed(ctx, job, None)
        finally:
            job.cancel()
        return self._said(job.outcome(), 0)

    async def _start(self, _: Context, given: Mapping[str, Any]) -> types.CallToolResult:
        outcome = (await self._begun(given)).outcome()
        return types.CallToolResult(
            content=[_text(f"run {outcome.run_id} has begun; `status` and `result` take its run_id")],
            structured_content={"run_id": outcome.run_id, "state": outcome.state},
        )

    async def _status(self, _: Context, given: Mapping[str, Any]) -> types.CallToolResult:
        outcome = await self._outcome(converted(given, OfRun).run_id)
        doing = f"\nits code: {outcome.doing}" if outcome.doing else ""
        failed = f"\n{outcome.error}" if outcome.error else ""
        return types.CallToolResult(
            content=[_text(f"run {outcome.run_id}: {outcome.told()}{doing}{failed}")],
            structured_content=outcome.counts(),
        )

    async def _result(self, ctx: Context, given: Mapping[str, Any]) -> types.CallToolResult:
        wanted = converted(given, Result)
        if wanted.offset < 0 or not 0 <= wanted.wait_seconds <= WAIT:
            raise ConfigError(f"wait_seconds is between 0 and {WAIT:.0f}, and offset at least 0")
        job = self.jobs.find(wanted.run_id)
        if job is not None and wanted.wait_seconds:
            await _followed(ctx, job, wanted.wait_seconds)
        return self._said(await self._outcome(wanted.run_id), wanted.offset)

    async def _cancel(self, _: Context, given: Mapping[str, Any]) -> types.CallToolResult:
        run_id = converted(given, OfRun).run_id
        job = self.jobs.find(run_id)
        if job is None:
            raise ConfigError(f"no run {run_id[:64]!r} of this server is at work")
        await job.close()
        outcome = job.outcome()
        return types.CallToolResult(
            content=[_text(f"run {outcome.run_id}: {outcome.told()}")], structured_content=outcome.counts()
        )

    async def _begun(self, given: Mapping[str, Any]) -> Job:
        form = converted(given, Ask)
        if form.text is not None and form.paths is not None:
            raise ConfigError("give a text or paths, not both")
        context: Any = form.text
        if form.paths is not None:
            context = await in_thread(self._folders.context, form.paths)
        return await self.jobs.start(arguments.asked(form, context, self.jobs.rlm.limits))

    async def _outcome(self, run_id: str) -> Outcome:
        """How a run stands, of this server or of the store. Raises RLMError when there is none."""
        job = self.jobs.find(run_id)
        return job.outcome() if job is not None else Outcome.of_recorded(await self._recorded(run_id))

    async def _recorded(self, run_id: str) -> view.RecordedRun:
        if self._store is None:
            raise ConfigError(f"there is no run {run_id[:64]!r}, and none is recorded here")
        store = self._store

        def read() -> view.RecordedRun:
            with view.open(store) as recorded:
                return recorded.run(run_id)

        return await in_thread(read)

    def _said(self, outcome: Outcome, offset: int) -> types.CallToolResult:
        """The answer of a run, as much of it as may be given at once; or why there is none."""
        meta = {"recursor/run": outcome.counts()}
        if outcome.answer is None and not answered(outcome):
            why = f"run {outcome.run_id} has no answer yet" if outcome.running else outcome.error
            return _failed(f"{why or 'it ended without an answer'} ({outcome.told()})", meta)
        whole = clean(as_text(outcome.answer))
        part = whole[offset : offset + CLIPPED]
        content: list[types.ContentBlock] = [_text(part)]
        notes = (
            []
            if answered(outcome)
            else [f"A limit ended the run: this is what there was ({outcome.told()})."]
        )
        if len(part) < len(whole):
            notes.append(
                f"[{len(whole):,} characters in all, these from {offset:,} on; `result` with an offset gives others]"
            )
            content.append(
                types.ResourceLink(
                    name="answer", uri=f"recursor://runs/{outcome.run_id}/answer", description="the whole answer",
                    mime_type="text/plain" if isinstance(outcome.answer, str) else "application/json",
                    size=len(whole.encode()),
                )
            )  # fmt: skip
        content += [_text(note) for note in notes]
        structured = None
        if not isinstance(outcome.answer, str) and len(whole) <= CLIPPED:
            structured = {"answer": json.loads(whole)}
        return types.CallToolResult(content=content, structured_content=structured, _meta=meta)

    # Resources --------------------------------------------------------------------------------

    async def _list_resources(self, _: Context, __: Any) -> types.ListResourcesResult:
        runs = await in_thread(self._latest)
        resources = [
            types.Resource(
                name="runs",
                uri="recursor://runs",
                mime_type="application/json",
                description="The latest runs.",
            )
        ]
        resources += [
            types.Resource(
                name=f"run {run.id[:12]}", uri=f"recursor://runs/{run.id}", mime_type="text/plain",
                description=clean(f"{run.outcome}: {' '.join(run.question[:200].split())}"),
            )
            for run in runs
        ]  # fmt: skip
        return types.ListResourcesResult(resources=resources)

    async def _list_templates(self, _: Context, __: Any) -> types.ListResourceTemplatesResult:
        about = {
            "": ("A run: its turns with code and output, sub-calls, cost, answer.", "text/plain"),
            "/json": ("What a run was asked, how it ended, what it took, its answer.", "application/json"),
            "/answer": ("The whole answer of a run; what is no text as JSON.", "text/plain"),
        }
        templates = [
            types.ResourceTemplate(
                name=f"run{end.replace('/', ' ')}", uri_template=f"recursor://runs/{{run_id}}{end}",
                description=told, mime_type=kind,
            )
            for end, (told, kind) in about.items()
        ]  # fmt: skip
        return types.ListResourceTemplatesResult(resource_templates=templates)

    async def _read(self, _: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        uri = str(params.uri)
        try:
            text, kind = await self._text_of(uri)
        except TrajectoryError as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from error
        contents = types.TextResourceContents(uri=uri, text=clean(text), mime_type=kind)
        return types.ReadResourceResult(contents=[contents])

    async def _text_of(self, uri: str) -> tuple[str, str]:
        """The text of a resource, and its type. Raises TrajectoryError when there is none."""
        if uri == "recursor://runs":
            runs = await in_thread(self._latest)
            rows = [_summary(Outcome.of_recorded(run), run.question, run.started) for run in runs]
            return as_text(rows), "application/json"
        found = _URI.fullmatch(uri)
        if found is None:
            raise TrajectoryError(f"there is no resource {uri[:200]!r}; runs are recursor://runs/RUN_ID")
        run_id, part = found[1], found[2] or ""
        if part == "/answer":
            answer = (await self._any_outcome(run_id)).answer
            return as_text(answer), "text/plain" if isinstance(answer, str) else "application/json"
        if self._store is None:
            raise TrajectoryError("runs are not recorded here")
        if part == "/json":
            run = await self._recorded(run_id)
            row = _summary(Outcome.of_recorded(run), run.question, run.started)
            return as_text({**row, "answer": run.answer, "error": run.error}), "application/json"
        return await in_thread(self._story, self._store, run_id), "text/plain"

    async def _any_outcome(self, run_id: str) -> Outcome:
        try:
            return await self._outcome(run_id)
        except ConfigError as error:
            raise TrajectoryError(str(error)) from error

    def _latest(self) -> list[view.RecordedRun]:
        if self._store is None or not self._store.exists():
            return []
        with view.open(self._store) as recorded:
            return recorded.runs(LISTED)


async def _followed(ctx: Context, job: Job, seconds: float | None) -> None:
    """Tell the host how a run goes, at least once, until it has ended or some time has passed."""
    began = told = time.monotonic()
    events = -1
    while True:
        now = time.monotonic()
        if job.events != events or now - told > ALIVE:
            events, told = job.events, now
            await ctx.session.report_progress(now - began, None, clean(job.outcome().told()))
        left = TICK if seconds is None else min(TICK, began + seconds - now)
        if job.ended or left <= 0:
            return
        await job.wait(left)


def _summary(outcome: Outcome, question: str, started: float) -> dict[str, Any]:
    row: dict[str, Any] = plain({**outcome.counts(), "question": question[:1000], "started": started})
    return row


def _text(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=clean(text))


def _failed(text: str, meta: dict[str, Any] | None = None) -> types.CallToolResult:
    return types.CallToolResult(content=[_text(text)], is_error=True, _meta=meta)
