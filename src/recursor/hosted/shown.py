"""What an editor is told of a run: replies as thoughts, blocks of code as tool calls, sub-calls counted. Pure."""

from __future__ import annotations

import re
import uuid
from typing import Any

import acp

from recursor.display import to_json
from recursor.hosted.texts import clean
from recursor.types import BatchAnnounced, BlockExecuted, Event, Execution, ModelCalled, ReplyText, RunStarted

SHOWN = 4_000
"""Characters of an output that an editor is shown."""
EVERY = 25
"""Sub-calls between two words about them."""


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
                return [acp.update_agent_thought_text(clean(event.text))]
            case BatchAnnounced() if event.run_id == self.run_id and not self._batch:
                self._batch, self._calls = uuid.uuid4().hex, 0
                said = f"asks {event.model} {event.count:,} times"
                return [acp.start_tool_call(self._batch, clean(said), kind="think", status="in_progress")]
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


def message(answer: Any) -> str:
    """An answer as an editor shows it."""
    if answer is None:
        return "There is no answer."
    return clean(answer if isinstance(answer, str) else _fenced(to_json(answer, indent=2), "json"))


def _block(number: str, execution: Execution) -> Any:
    """A block of code and what came of it."""
    output = execution.output
    printed = output.head[:SHOWN]
    if output.total > len(printed):
        printed += f"\n[{output.total - len(printed):,} more characters]"
    parts = [f"{_fenced(execution.code, 'python')}"]
    parts += [_fenced(each, "") for each in (printed.rstrip(), (execution.error or "")[-SHOWN:]) if each]
    title = next((line.strip() for line in execution.code.splitlines() if line.strip()), "code")
    content = acp.tool_content(acp.text_block(clean("\n".join(parts))))
    return acp.start_tool_call(
        f"block-{number}-{uuid.uuid4().hex[:8]}", clean(title[:100]), kind="execute",
        status="failed" if execution.error else "completed", content=[content],
    )  # fmt: skip


def _fenced(text: str, language: str) -> str:
    """Text in a fence that nothing in it closes."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
