"""Logs of the reference implementation (`rlms`, `RLMLogger`): one line of metadata, then one an iteration.

The log has no usage of root calls, so a run's cost is not known, and no times of sub-calls: they follow one
another from the start of their block. A sub-call with `metadata` is a child run. Settings of a backend are
not taken over, since there may be keys in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from recursor.errors import TrajectoryError
from recursor.sandboxes.guest.changes import Variables
from recursor.trajectory import foreign
from recursor.types import (
    BlockExecuted,
    Completion,
    ContextInfo,
    Event,
    Execution,
    Message,
    ModelCalled,
    Output,
    Reply,
    RunEnded,
    RunStarted,
    StopReason,
    Submission,
    Usage,
    Variable,
)

_QUESTION = re.compile(r"\AAnswer the following: (.*?)\n\nYour context is", re.DOTALL)
_CONTEXT = re.compile(r"Your context is an? (\w+) of (\d+) total characters")
_OURS = re.compile(r"context(_\d+)?|history(_\d+)?|answer|f")
"""Names that the REPL of `rlms` binds by itself."""


def events(lines: Iterable[str | bytes]) -> Iterator[Event]:
    """Yield the events of a log.

    Raises:
        TrajectoryError: a line is damaged.
    """
    rows = foreign.rows(lines)
    _, metadata = next(rows)
    run_id = foreign.identity("rlms", metadata)
    run = _Run(run_id, metadata)
    for number, row in rows:
        try:
            yield from run.iteration(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TrajectoryError(f"line {number} is no iteration of rlms: {error!r}") from None
    yield from run.end()


class _Run:
    """One run of `rlms`."""

    def __init__(
        self, run_id: str, metadata: Mapping[str, Any], parent: _Run | None = None, question: str = ""
    ) -> None:
        self.id = run_id
        self.model = foreign.text(metadata.get("root_model"))
        self.turn = 0
        self.block = 0
        self.children = 0
        self.calls = Usage()
        self.depth: int = parent.depth + 1 if parent else 0
        self._parent = parent
        self._question = question
        self._metadata = metadata
        self._variables = Variables()
        self._locals: dict[str, Any] = {}
        self._times: list[float] = []
        self._answer: tuple[Any, StopReason] | None = None

    def iteration(self, row: Mapping[str, Any]) -> Iterator[Event]:
        ended, took = foreign.seconds(row["timestamp"]), foreign.number(row["iteration_time"])
        began = ended - took
        blocks = row["code_blocks"]
        messages = _prompt(_messages(row["prompt"]), self.turn, foreign.text(row["response"]))
        if not self.turn:
            yield self._start(messages, began)
        self.turn += 1
        self._times += [began, ended]
        executing = sum(foreign.number(block["result"]["execution_time"]) for block in blocks)
        replied = max(0.0, took - executing)
        reply = Reply(foreign.text(row["response"]), Usage(calls=1), None, self.model)
        yield self._called("root", messages, reply, None, (began, replied))
        at = began + replied
        for self.block, block in enumerate(blocks, 1):
            yield from self._block(block, at)
            at += foreign.number(block["result"]["execution_time"])
        if row["final_answer"] is not None:
            # One without code is the reply that `rlms` asks for when iterations are used up.
            reason = StopReason.ANSWERED if blocks else StopReason.MAX_TURNS
            self._answer = row["final_answer"], reason

    def end(self) -> Iterator[Event]:
        if self._answer is not None:
            answer, reason = self._answer
            took = max(self._times) - min(self._times)
            done = Completion(answer, reason, self.calls, None, self.id, self.turn, took, self.model)
            yield RunEnded(self.id, done, None, max(self._times))

    def _start(self, messages: tuple[Message, ...], began: float) -> RunStarted:
        told = "\n".join(message.content for message in messages[:3])
        question = next(filter(None, (_QUESTION.match(message.content) for message in messages)), None)
        context = _CONTEXT.search(told)
        infos = (
            (ContextInfo("context", context[1], f"{int(context[2]):,} characters", ""),) if context else ()
        )
        parent, metadata = self._parent, self._metadata
        limits = {"max_depth": metadata.get("max_depth"), "max_turns": metadata.get("max_iterations")}
        return RunStarted(
            self.id, parent.id if parent else None, self.depth, question[1] if question else self._question, infos,
            self.model, self.model, foreign.isolation(f"rlms {foreign.text(metadata.get('environment_type'))}"), began,
            reason="imported from a log of rlms", limits=limits, turn=parent.turn if parent else 0,
            block=parent.block if parent else 0, number=parent.children if parent else 0,
        )  # fmt: skip

    def _block(self, block: Mapping[str, Any], at: float) -> Iterator[Event]:
        result = block["result"]
        took = foreign.number(result["execution_time"])
        since = at
        for call in result["rlm_calls"]:
            yield from self._subcall(call, since)
            since = min(since + foreign.number(call["execution_time"]), at + took)
        before, self._locals = self._locals, {}
        for name, value in result["locals"].items():
            if not _OURS.fullmatch(name):  # each line has a copy of what did not change
                self._locals[name] = before[name] if before.get(name) == value else value
        changes = self._variables.changes(self._locals)
        submission = None if result.get("final_answer") is None else Submission(result["final_answer"])
        execution = Execution(
            foreign.text(block["code"]), Output(foreign.text(result["stdout"])),
            foreign.text(result["stderr"]).strip() or None, (), submission, took,
            variables=tuple(Variable(*row) for row in changes.get("variables", ())),
            more_variables=changes.get("more_variables", 0), started=at,
        )  # fmt: skip
        yield BlockExecuted(self.id, self.turn, self.block, execution)

    def _subcall(self, call: Mapping[str, Any], at: float) -> Iterator[Event]:
        if call.get("metadata") is None:
            spent = call["usage_summary"]["model_usage_summaries"].values()
            usage = Usage(
                sum(int(foreign.number(each["total_input_tokens"])) for each in spent),
                sum(int(foreign.number(each["total_output_tokens"])) for each in spent),
                calls=1,
            )
            messages = _messages(call["prompt"])
            reply = Reply(foreign.text(call["response"]), usage, None, foreign.text(call["root_model"]))
            took = foreign.number(call["execution_time"])
            yield self._called("sub", messages, reply, call.get("error"), (at, took))
            return
        self.children += 1
        child_id = foreign.identity(self.id, self.children)
        child = _Run(child_id, call["metadata"]["run_metadata"], self, foreign.text(call["prompt"]))
        for row in call["metadata"]["iterations"]:
            yield from child.iteration(row)
        yield from child.end()
        self.calls += child.calls

    def _called(
        self, purpose: Any, messages: tuple[Message, ...], reply: Reply, error: Any, when: tuple[float, float]
    ) -> ModelCalled:
        self.calls += reply.usage
        return ModelCalled(
            self.id, foreign.identity(self.id, self.calls.calls), self.turn, purpose, reply.model, messages,
            None if error else reply, foreign.text(error) if error else None, *when,
            block=self.block if purpose == "sub" else 0,
        )  # fmt: skip


def _messages(prompt: Any) -> tuple[Message, ...]:
    """A prompt: a text, or a list of messages."""
    if not isinstance(prompt, list):
        return (Message("user", foreign.text(prompt)),)
    roles: dict[str, Any] = {"system": "system", "developer": "system", "assistant": "assistant"}
    return tuple(
        Message(roles.get(each.get("role"), "user"), foreign.text(each.get("content"))) for each in prompt
    )


def _prompt(messages: tuple[Message, ...], turns: int, response: str) -> tuple[Message, ...]:
    """A prompt without what came later: of child runs each line has the messages of the whole run."""
    replies = [place for place, message in enumerate(messages) if message.role == "assistant"]
    if len(replies) > turns and messages[replies[turns]].content == response:
        return messages[: replies[turns]]
    return messages
