"""`answer`: how a value becomes what a run submits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class Submitted(BaseException):
    """Unwinds the block that has submitted an answer."""


class Answer(dict[str, Any]):
    """`answer`: a dict that notices when it is complete."""

    def __init__(self, submit: Callable[[Any], None], on_draft: Callable[[], None]) -> None:
        super().__init__(content=None, ready=False)
        self._submit = submit
        self._on_draft = on_draft
        self._assigned = False
        self.drafted = False
        """Whether the content was ever set."""

    def begin_block(self) -> None:
        self._assigned = False
        super().__setitem__("ready", False)

    def keep(self, content: Any) -> None:
        """Make a value the draft, without submitting it."""
        super().__setitem__("content", content)
        self.drafted = True

    def adopt(self, bound: dict[str, Any]) -> None:
        """Take over a dict that `answer` was bound to."""
        super().update(bound)
        self.drafted = self.drafted or "content" in bound

    def _check(self, keys: Iterable[str]) -> None:
        self._assigned = self._assigned or "content" in keys
        self.drafted = self.drafted or self._assigned
        if self._assigned and self.get("ready") is True:
            self._submit(self.get("content"))
            raise Submitted
        if "content" in keys:
            self._on_draft()

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._check((key,))

    def update(self, *args: Any, **kwargs: Any) -> None:
        changes = dict(*args, **kwargs)
        super().update(changes)
        self._check(changes)

    def __ior__(self, other: Any) -> Answer:  # type: ignore[override,misc]
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]
