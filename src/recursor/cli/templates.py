"""Prompts of sub-calls grouped by what they have in common. Pure, and bounded in size.

Code makes prompts out of a template: a few words that stay, and a piece of the context before or after them.
A prompt joins the first group whose words it begins or ends with; what is left of the words is what both have.
Prompts that begin alike stay a group, however others end: a schema ends all prompts alike.
"""

from __future__ import annotations

from dataclasses import dataclass

LOOK = 96
"""Characters looked at, at either end of a prompt."""
LEAST = 10
"""Characters that two prompts must share to be of one group."""
MOST = 6
"""Groups; what fits none of them afterwards is one more."""


@dataclass(slots=True)
class Template:
    """Prompts that begin, or end, alike."""

    head: str
    tail: str
    done: int = 0
    failed: int = 0

    def __str__(self) -> str:
        """The words that they share, with "…" for what differs."""
        if not self.head and not self.tail:
            return "other prompts"
        if len(self.head.strip()) >= LEAST or self.done + self.failed == 1:
            return self.head.rstrip() + "…"
        return "…" + self.tail.lstrip()

    def joins(self, head: str, tail: str) -> bool:
        """Whether a prompt is of this group; if so, keep only what it shares."""
        heads = self.head if head.startswith(self.head) else _common(self.head, head)
        tails = self.tail if tail.endswith(self.tail) else _common(self.tail[::-1], tail[::-1])[::-1]
        by_tail = self.done + self.failed == 1 or len(self.head.strip()) < LEAST
        alike = len(heads.strip()) >= LEAST or (by_tail and len(tails.strip()) >= LEAST)
        if not alike and (head, tail) != (self.head, self.tail):
            return False
        self.head, self.tail = heads, tails
        return True


class Templates:
    """The groups of one code block's prompts, in the order of their first."""

    def __init__(self) -> None:
        self.groups: list[Template] = []
        self._others = Template("", "")

    def add(self, prompt: str, *, failed: bool) -> None:
        """Count one prompt that was answered, or failed."""
        head, tail = prompt[:LOOK], prompt[-LOOK:]
        group = next((group for group in self.groups if group.joins(head, tail)), None)
        if group is None and len(self.groups) < MOST and prompt.strip():
            group = Template(head, tail)
            self.groups.append(group)
        elif group is None:
            group = self._others
        group.done += not failed
        group.failed += failed

    def largest(self, number: int) -> list[Template]:
        """The groups with the most prompts."""
        every = [*self.groups, *([self._others] if self._others.done or self._others.failed else [])]
        return sorted(every, key=lambda group: -(group.done + group.failed))[:number]


def _common(one: str, two: str) -> str:
    """The longest text that both begin with."""
    length = next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), None)
    return one[: min(len(one), len(two)) if length is None else length]
