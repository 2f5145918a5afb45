"""From events to rows."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from recursor.trajectory.packing import dumps, pack, pack_message, pack_value, picture_digest
from recursor.types import (
    BlockExecuted,
    CallRefused,
    CallRetried,
    Compacted,
    ContextHashed,
    Decided,
    Diverged,
    Event,
    Message,
    ModelCalled,
    RunEnded,
    RunStarted,
    ToolCalled,
)

MAX_CACHED_NODES = 4096


class Writer:
    """Events -> rows, in one transaction for each batch."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._nodes: dict[tuple[bytes, Message], bytes] = {}
        self._version = 0
        self._resumed: set[str] = set()

    def write(self, events: Sequence[Event]) -> Exception | None:
        """Commit the events; return the error of the last that had to be left out.

        Raises:
            sqlite3.OperationalError: none is committed, and all may be tried again.
        """
        try:
            self.commit(events)
        except sqlite3.OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad event must not take the others along
            if len(events) == 1:
                return error
            errors = [self.write([event]) for event in events]
            return next((each for each in reversed(errors) if each), None)
        return None

    def commit(self, events: Iterable[Event]) -> None:
        """Commit all of the events, or none."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            (version,) = self.connection.execute("PRAGMA data_version").fetchone()
            if version != self._version:  # another one has written, who may have removed messages
                self._version = version
                self._nodes.clear()
            for event in events:
                self._one(event)
            self.connection.execute("COMMIT")
        except BaseException:
            self._nodes.clear()
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _one(self, event: Event) -> None:
        subject, data = None, None
        match event:
            case RunStarted():
                self._started(event)
            case ModelCalled():
                subject = event.call_id
                self._called(event)
            case ToolCalled():
                subject = event.call_id
                self._used(event)
            case BlockExecuted():
                subject = f"{event.turn}.{event.block}"
                self._executed(event)
            case ContextHashed():
                subject = _label(event.name)
                self.connection.execute(
                    "UPDATE context SET digest = ? WHERE run_id = ? AND name = ?",
                    (event.digest, event.run_id, subject),
                )
            case CallRetried() | CallRefused() | Compacted() | Decided() | Diverged():
                data = pack(dumps(asdict(event)))
            case RunEnded():
                self._ended(event)
        row = (event.run_id, type(event).__name__, subject, data)
        if event.run_id in self._resumed:  # what is recorded again stays where it was
            where = "run_id = ? AND kind = ? AND subject IS ? AND data IS ?"
            if self.connection.execute(f"SELECT 1 FROM event WHERE {where}", row).fetchone():  # noqa: S608 - ours
                return
        self.connection.execute("INSERT INTO event (run_id, kind, subject, data) VALUES (?, ?, ?, ?)", row)

    def _insert(self, table: str, *row: Any) -> None:
        places = ", ".join("?" * len(row))
        self.connection.execute(
            f"INSERT OR REPLACE INTO {table} VALUES ({places})",  # noqa: S608 - our own table names
            row,
        )

    def _started(self, event: RunStarted) -> None:
        self.connection.execute(
            "INSERT INTO run (id, parent_id, depth, question, model, sub_model, isolation, started, strategy, reason, "
            "settings, limits, turn, block, number) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET ended = NULL, error = NULL, stop_reason = NULL, answer_form = NULL, "
            "answer = NULL, settings = excluded.settings, limits = excluded.limits",
            (
                event.run_id, event.parent_id, event.depth, pack(event.question), _label(event.model),
                _label(event.sub_model), _json(event.isolation), event.time, event.strategy,
                pack(event.reason), pack(dumps(event.settings)), dumps(event.limits), event.turn, event.block,
                event.number,
            ),
        )  # fmt: skip
        if event.resumed:
            self._resumed.add(event.run_id)
            self.connection.execute(
                "DELETE FROM event WHERE run_id = ? AND kind = 'RunEnded'", (event.run_id,)
            )
        for info in event.contexts:
            labels = map(_label, (info.name, info.type, info.size))
            self.connection.execute(
                "INSERT OR IGNORE INTO context VALUES (?, ?, ?, ?, ?, ?, ?)",
                (event.run_id, *labels, pack(info.preview), pack(info.source), None),
            )

    def _called(self, event: ModelCalled) -> None:
        reply = event.reply
        self._insert(
            "call", event.call_id, event.run_id, event.turn, event.purpose, _label(event.model),
            self._leaf(event.messages),
            reply and pack(reply.text), reply and reply.reasoning and pack(reply.reasoning),
            reply and reply.raw and pack(dumps(reply.raw)), reply and _label(reply.model),
            reply and _label(reply.finish_reason), reply and _json(reply.usage), reply and reply.cost,
            event.error and pack(event.error), event.time, event.duration, event.cut, bytes.fromhex(event.request),
            reply is not None and reply.cached, event.block,
        )  # fmt: skip

    def _used(self, event: ToolCalled) -> None:
        self._insert(
            "tool", event.call_id, event.run_id, event.turn, _label(event.name),
            *pack_value((event.args, dict(event.kwargs))), *pack_value(event.result),
            event.error and pack(event.error), event.time, event.duration, event.cut, event.block,
        )  # fmt: skip

    def _leaf(self, messages: tuple[Message, ...]) -> bytes:
        """Store the messages that are new, and return the hash of the last."""
        parent = b""
        for message in messages:
            known = self._nodes.get((parent, message))
            if known is None:
                known = self._node(parent, message)
                if len(messages) > 1:
                    self._remember(parent, message, known)
            parent = known
        return parent

    def _node(self, parent: bytes, message: Message) -> bytes:
        content = message.content.encode("utf-8", "surrogatepass")
        pictures = {picture_digest(image): image for image in message.images}
        said = b"\0".join([message.role.encode(), content, *pictures])
        digest = hashlib.blake2b(parent + said, digest_size=20).digest()
        known = self.connection.execute("SELECT 1 FROM node WHERE hash = ?", (digest,)).fetchone()
        if known is None:
            for named, image in pictures.items():
                self.connection.execute("INSERT OR IGNORE INTO image VALUES (?, ?)", (named, image))
            self._insert("node", digest, parent or None, message.role, pack_message(message))
        return digest

    def _remember(self, parent: bytes, message: Message, digest: bytes) -> None:
        if len(self._nodes) >= MAX_CACHED_NODES:
            self._nodes.clear()
        self._nodes[parent, message] = digest

    def _executed(self, event: BlockExecuted) -> None:
        execution = event.execution
        output = execution.output
        self._insert(
            "execution", event.run_id, event.turn, event.block, pack(execution.code), pack(output.head),
            output.omitted, pack(output.tail), None if execution.error is None else pack(execution.error),
            json.dumps(execution.notes), execution.submission is not None, execution.duration,
            pack(json.dumps(execution.readings)), pack(_json(execution.variables)), execution.more_variables,
            execution.started,
        )  # fmt: skip

    def _ended(self, event: RunEnded) -> None:
        done = event.completion
        form, answer = pack_value(done.answer) if done is not None else (None, None)
        self.connection.execute(
            "UPDATE run SET ended = ?, error = ?, stop_reason = ?, answer_form = ?, answer = ?, turns = ?, "
            "duration = ?, usage = ?, cost = ?, replayed = ?, diverged_at = ? WHERE id = ?",
            (
                event.time, event.error and pack(event.error), done and str(done.stop_reason), form, answer,
                done and done.turns, done and done.duration, done and _json(done.usage), done and done.cost,
                done and done.replayed, done and done.diverged_at, event.run_id,
            ),
        )  # fmt: skip


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _label(text: str | None) -> str | None:
    """A name for a column of text, which takes no lone surrogates: they are spelt out."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()
