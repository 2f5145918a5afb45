"""What the completions of one `RLM` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from recursor import prompt
from recursor.limits import Limits
from recursor.models.retry import Retries
from recursor.offered import ToolSource
from recursor.policy import Policy
from recursor.protocols import Cache, Model, Sandbox, Sink
from recursor.routing import Routes
from recursor.task import Task
from recursor.tools import AnyTool
from recursor.types import Completion

Strategy: TypeAlias = Literal["rlm", "direct", "auto"]


@dataclass(frozen=True, slots=True)
class Shared:
    """What the completions of one `RLM` share."""

    routes: Routes[Model]
    sandbox: Sandbox
    limits: Limits
    dialect: prompt.Dialect
    tools: Mapping[str, AnyTool]
    sink: Sink
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was asked for, for the record."""
    sources: Sequence[ToolSource] = ()
    """Of further tools, which are asked what they have when a root run begins."""
    policy: Policy | None = None
    """What code may have the host do; None lets it do all that it is offered."""
    cache: Cache | None = None
    """Replies of other runs that may be taken; None asks for each."""
    stream: bool = False
    """Whether the root LM's replies are asked for and emitted piece by piece."""
    strategy: Strategy = "rlm"
    """"direct" answers by one plain call with the input in it, "auto" does so where that is small."""
    retries: Retries = field(default_factory=Retries)
    compact_at: int | None = None
    """Tokens of a prompt of the root LM beyond which its old turns give way to a summary; None goes by its window."""

    async def complete(self, task: Task, at: Any) -> Completion:
        """Answer one question at a `Place`: what `Engine` does. Sub-calls that are runs come back to it."""
        raise NotImplementedError

    @property
    def mounts(self) -> Mapping[str, str]:
        """Folders that code may read, by the paths at which it sees them."""
        found: Mapping[str, str] = getattr(self.sandbox, "mounts", {})
        return found
