"""The REPL: one persistent namespace that runs code blocks for the host.

Nothing here is a boundary: code of a model runs in this very interpreter and can change all of it.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import linecache
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from . import contexts, forking, replay
from .answer import Submitted
from .capture import KEEP, Capture
from .changes import Variables
from .channel import Channel, SubcallError, leave
from .defining import make_module
from .frames import header_start
from .loading import Loaded, Unreadable
from .mapped import MappedStr
from .names import Names
from .tracebacks import explained
from .turns import TurnChannel
from .values import encode

MAX_DRAFT = 1 << 16
KEEP_EVERY = 0.05
"""Seconds between drafts that are sent while a block runs."""
_monotonic = time.monotonic
_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


class Worker:
    """Serves one REPL over a channel, one command at a time.

    Args:
        redirect: makes prints go to `capture`; called before each block, which may have undone it.
        end_block: called when a block has run, before anything is done about it.
    """

    def __init__(
        self,
        channel: Channel,
        capture: Capture,
        redirect: Callable[[], None],
        end_block: Callable[[], None] = lambda: None,
    ) -> None:
        self._channel = channel
        self._capture = capture
        self._redirect = redirect
        self._end_block = end_block
        self._module = make_module("__main__")
        self._namespace = self._module.__dict__
        self._names = Names(self._namespace, channel, self._submit, self._draft_set, self._branch)
        self._variables = Variables()
        self._no_forks = ""
        """Why there are none here, where there are none."""
        self._kept_at = 0.0
        self._submission: dict[str, Any] | None = None
        self._submitting = threading.Lock()
        self._cells = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clocks: replay.Clocks | None = None
        self._unawaited: weakref.WeakSet[Any] = weakref.WeakSet()
        """Coroutines that a note has named."""
        self.running = False

    @property
    def module(self) -> Any:
        return self._module

    def serve(self) -> None:
        """Answer commands until the channel closes."""
        commands: dict[str, Callable[[dict[str, Any], bytes], None]] = {
            "run": self._run, "load": self._load, "draft": self._draft, "setup": self._setup,
            "fork": self._fork, "become": self._become,
        }  # fmt: skip
        while True:
            try:
                header, body = self._channel.commands.get()
                if header["op"] == "bye":
                    return self._close()
                commands[header["op"]](header, body)
            except KeyboardInterrupt:
                continue

    def _close(self) -> None:
        if self._loop is not None:
            self._loop.close()

    def _setup(self, header: dict[str, Any], _body: bytes) -> None:
        for name in header["tools"]:
            self._names.reserve_tool(name)
        self._names.call_in_style(header["calls"])
        self._no_forks = header["forks"]
        if header["seed"] is not None:
            replay.seed(header["seed"])
            self._clocks = replay.clocks()

    # Forks --------------------------------------------------------------------------------------

    @property
    def _line(self) -> TurnChannel:
        """The channel, where there are forks."""
        assert isinstance(self._channel, TurnChannel)
        return self._channel

    def _fork(self, header: dict[str, Any], _body: bytes) -> None:
        """Fork between blocks: the child goes on with the commands of its own host."""
        number, child = header["id"], False
        try:
            refused = forking.refusal(self._line, self._loop, inside=False)
            child = self._forked(header["descriptors"], refused)
        except forking.NotForked as failed:
            self._channel.send({"op": "failed", "re": number, "error": str(failed)})
        else:
            if not child:
                self._channel.send({"op": "forked", "re": number})

    def _branch(self) -> int:
        """Fork within a block; return the number of the child, which never comes back from here.

        Raises:
            SubcallError: that is not possible here, or now.
        """
        refused = self._no_forks or forking.refusal(self._line, self._loop, inside=True)
        if refused:
            raise SubcallError(f"fork=True: {refused}")
        number = self._channel.next_number()
        with forking.Undisturbed():
            descriptors = self._channel.ask(header_start({"op": "branch"}), number=number)
            try:
                child = self._forked(descriptors, None)
            except forking.NotForked as failed:
                self._channel.send({"op": "failed", "re": number, "error": str(failed)})
                raise SubcallError(f"fork=True: {failed}") from None
            if not child:
                self._channel.send({"op": "forked", "re": number})
                return number
        # Below lie the frames of the block that asked: they are never returned to.
        self.serve()
        leave()
        raise AssertionError("unreachable")

    def _forked(self, descriptors: Sequence[int], refused: str | None) -> bool:
        """Fork, and let frames be read again; return whether this is the child."""
        child = False
        try:
            if refused:
                for descriptor in descriptors:
                    os.close(descriptor)
                raise forking.NotForked(refused)
            child = forking.fork(self._line, descriptors)
            if child:
                self._begin_as_copy()
        finally:
            self._line.resume()
        if child:
            self._channel.send({"op": "ready", "facts": None})
        return child

    def _begin_as_copy(self) -> None:
        self.running = False
        self._end_block()
        self._capture.take()
        forking.abandon(self._loop)
        self._loop = None
        if self._clocks is not None:
            self._clocks.end()

    def _become(self, header: dict[str, Any], _body: bytes) -> None:
        """Be the REPL of another run: with its tools, an answer of its own, and its own randomness."""
        self._names.begin_anew(header["tools"])
        self._names.call_in_style(header["calls"])
        self._submission = None
        if header["seed"] is not None:
            replay.seed(header["seed"])

    def _load(self, header: dict[str, Any], _body: bytes) -> None:
        number = header["id"]
        try:
            value, note = self._loaded(header)
            self._names.load(header["name"], value, alias=header["form"] == "alias")
            told = contexts.describe(value, note)  # which reads documents of a folder
        except Unreadable as error:
            self._channel.send({"op": "failed", "re": number, "error": str(error), "unreadable": True})
            return
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the data, the host must hear of it
            self._channel.send(
                {"op": "failed", "re": number, "error": f"{type(error).__name__}: {error}"[:1000]}
            )
            return
        self._channel.send({"op": "loaded", "re": number, **told})

    def _loaded(self, header: dict[str, Any]) -> Loaded:
        descriptor, form, size = header["descriptor"], header["form"], header["size"]
        if form != "alias":
            return contexts.loaded(descriptor, form, size)
        name = contexts.load(descriptor, "text", size)
        return Loaded(self._names.loaded(name))

    def _draft(self, header: dict[str, Any], _body: bytes) -> None:
        try:
            sent = self._channel.send_value(header["id"], self._names.answer.get("content"))
        except Exception:  # noqa: BLE001 - a draft that cannot leave is no draft
            sent = None
        self._channel.send({"op": "drafted", "re": header["id"], "answer": sent})

    def _submit(self, value: Any) -> None:
        with self._submitting:
            if self._submission is None:
                self._submission = self._channel.send_value(self._number, value)

    def _run(self, header: dict[str, Any], body: bytes) -> None:
        self._number = header["id"]
        self._submission = None
        error: str | None = None
        notes: list[str] = []
        self._names.begin_block()
        self._namespace.pop("__warningregistry__", None)  # each block is warned anew
        self._redirect()
        if self._clocks is not None:
            self._clocks.begin(header["readings"])
        try:
            try:
                self.running = True
                self._execute(body.decode("utf-8", "surrogatepass"))
                self._names.end_block()
            finally:
                self.running = False
                self._end_block()
        except Submitted:
            pass
        except BaseException as raised:  # noqa: BLE001 - the model reads it; the REPL goes on
            error = explained(raised)
        readings = self._clocks.end() if self._clocks is not None else []
        notes += self._names.restore()
        variables = self._names.variables()
        notes += self._never_awaited(variables)
        if self._submission is None:
            self._keep_draft()
        head, omitted, tail = self._capture.take()
        done = {
            "op": "done", "re": self._number, "error": error and _printable(error), "notes": notes,
            "head": _printable(head), "omitted": omitted, "tail": _printable(tail),
            "answer": self._submission, "readings": readings, **self._variables.changes(variables),
        }  # fmt: skip
        self._channel.send(done)

    def _never_awaited(self, variables: dict[str, Any]) -> list[str]:
        """Notes on variables that hold calls which were made and never begun."""
        notes = []
        for name, value in [("_", self._namespace.get("_")), *variables.items()]:
            held = value[0] if type(value) in (list, tuple) and value else value
            if not inspect.iscoroutine(held) or held in self._unawaited:
                continue
            if inspect.getcoroutinestate(held) == inspect.CORO_CREATED:
                self._unawaited.add(held)
                what = "the value of your last line" if name == "_" else f"`{name}`"
                several = "await asyncio.gather(*...)" if held is not value else f"await {held.__name__}(...)"
                notes.append(
                    f"{what} is a coroutine that was never awaited, so nothing was called: {several}"
                )
        return notes

    def _draft_set(self) -> None:
        """The code has set `answer["content"]`, and may be killed before its block ends."""
        if _monotonic() - self._kept_at > KEEP_EVERY:
            self._keep_draft()

    def _keep_draft(self) -> None:
        """Send the draft to the host when it is small: it outlives this process there."""
        content = self._names.answer.get("content")
        self._kept_at = _monotonic()
        try:
            if content is not None and _weight(content, MAX_DRAFT) <= MAX_DRAFT:
                form, data = encode(content)
                self._channel.send({"op": "kept", "form": form}, data)
        except Exception:  # noqa: BLE001 - a draft that cannot leave is no draft
            return

    def _execute(self, source: str) -> None:
        self._cells += 1
        filename = f"<block {self._cells}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        tree = compile(source, filename, "exec", ast.PyCF_ONLY_AST | _FLAGS, dont_inherit=True)
        assert isinstance(tree, ast.Module)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        self._evaluate(compile(tree, filename, "exec", _FLAGS, dont_inherit=True))
        if isinstance(last, ast.Expr):
            value = self._evaluate(
                compile(ast.Expression(last.value), filename, "eval", _FLAGS, dont_inherit=True)
            )
            self._show(value)

    def _evaluate(self, code: Any) -> Any:
        value = eval(code, self._namespace)  # noqa: S307 - running code is what a REPL is for
        if code.co_flags & inspect.CO_COROUTINE and inspect.iscoroutine(value):
            return self._await(value)
        return value

    def _await(self, coroutine: Any) -> Any:
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        except BaseException:
            if not task.done():
                task.cancel()
                self._loop.run_until_complete(asyncio.wait([task], timeout=0.2))
            raise

    def _show(self, value: Any) -> None:
        if value is None:
            return
        self._namespace["_"] = value
        if type(value) in (str, bytes, MappedStr) and len(value) > 2 * KEEP:
            self._capture.write(repr(value[:KEEP]))
            self._capture.skip(len(value) - 2 * KEEP)
            self._capture.write(repr(value[-KEEP:]) + "\n")
        else:
            self._capture.write(repr(value) + "\n")


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _weight(value: Any, limit: int) -> int:
    """About how many characters a value has; stops counting beyond the limit."""
    if isinstance(value, str | bytes):
        return len(value)
    if not isinstance(value, list | tuple | dict | set | frozenset):
        return 8
    weight = 8 * len(value)
    items = [*value.keys(), *value.values()] if isinstance(value, dict) and weight <= limit else value
    for item in items if weight <= limit else ():
        weight += _weight(item, limit - weight)
        if weight > limit:
            break
    return weight
