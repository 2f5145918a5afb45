"""What a client is told of a run while it goes: text, made of events. Pure."""

from __future__ import annotations

from recursor.types import BlockExecuted, Event, ModelCalled, ReplyText, RunStarted

OUTPUT = 400
"""Characters of an output."""
EVERY = 100
"""Sub-calls between two lines about them."""


class Progress:
    """Follows one run; of others it tells that they began.

    Args:
        run_id: that of the run, where it has begun already.
    """

    def __init__(self, run_id: str = "") -> None:
        self._run_id = run_id
        self._done = 0
        self._failed = 0

    def told(self, event: Event) -> str:
        """What to say of an event; empty for nothing."""
        match event:
            case RunStarted():
                if not self._run_id:
                    self._run_id = event.run_id
                    return ""
                return f"\n[RLM at depth {event.depth}: {event.question[:200]}]\n"
            case ReplyText() if event.run_id == self._run_id:
                return event.text
            case BlockExecuted() if event.run_id == self._run_id:
                return self._block(event)
            case ModelCalled() if event.purpose == "sub":
                return self._subcall(event)
        return ""

    def _block(self, event: BlockExecuted) -> str:
        execution = event.execution
        output = execution.output.head[:OUTPUT]
        more = execution.output.total - len(output)
        said = f"{output}\n[{more:,} more characters]" if more > 0 else output
        failed = f"\n{execution.error.splitlines()[-1][:OUTPUT]}" if execution.error else ""
        return f"\n[output]\n{said.rstrip()}{failed}\n" if said.strip() or failed else "\n"

    def _subcall(self, event: ModelCalled) -> str:
        self._done += 1
        self._failed += event.reply is None
        if self._done % EVERY:
            return ""
        return f"\n[{self._done:,} sub-calls{f', {self._failed:,} failed' if self._failed else ''}]\n"
