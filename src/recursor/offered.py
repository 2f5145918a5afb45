"""Tools that are known only when a run begins, such as those of servers; and what the root LM is told of all.

What such tools are called and described as was written by others: it is a line each in a prompt, clipped, and
all of them together have a bound, however many there are. `tool_help` in the REPL tells the rest.
"""

from __future__ import annotations

import asyncio
import builtins
import keyword
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from recursor.errors import ConfigError, SubcallError
from recursor.plugins import nearest
from recursor.tools import RESERVED, AnyTool, Tool

MAX_TOLD = 6_000
"""Characters that the root LM is told of all tools of servers."""
MAX_LINE = 160
"""Characters of the description of one."""
MAX_SIGNATURE = 240
MAX_NAME = 64
MAX_HELP = 20_000
"""Characters that `tool_help` says at once."""
HELP = "tool_help"
_PYTHON = frozenset((*dir(builtins), *sys.stdlib_module_names))
"""Names that code uses for something else: a tool of that name would take their place."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as its source describes it; hostile, but for `call`."""

    name: str
    arguments: str
    """As of a signature, with the parentheses."""
    description: str
    details: str
    """What there is to know of arguments and result."""
    call: Callable[..., Awaitable[Any]]


@runtime_checkable
class ToolSource(Protocol):
    """What has tools that are known when it is asked. A run asks when it begins; connections are kept for others."""

    @property
    def name(self) -> str:
        """An identifier; it is put before the name of a tool that is taken."""

    async def offers(self) -> Sequence[Offer]:
        """What it has. Raises ConfigError when it cannot be reached."""


def split(tools: Iterable[Any]) -> tuple[list[Any], list[ToolSource]]:
    """Return the tools themselves, and the sources of others. Raises ConfigError for what is no list."""
    if callable(tools) or isinstance(tools, str | bytes) or not isinstance(tools, Iterable):
        raise ConfigError(f"tools must be a list of functions, not {type(tools).__name__}: tools=[...]")
    found = list(tools)
    sources = [each for each in found if _is_source(each)]
    return [each for each in found if not _is_source(each)], sources


async def offered(
    sources: Sequence[ToolSource], tools: Mapping[str, AnyTool], taken: Collection[str]
) -> dict[str, AnyTool]:
    """Return the tools, with those of the sources behind them.

    Args:
        taken: further names that no tool may have.

    Raises:
        ConfigError: a source cannot be reached.
    """
    every = await asyncio.gather(*(source.offers() for source in sources))
    offers = [(source.name, offer) for source, its in zip(sources, every, strict=True) for offer in its]
    counts = Counter(_identifier(offer.name) for _, offer in offers)
    used = {*tools, *taken, *RESERVED, *_PYTHON, *keyword.kwlist, HELP}
    found: dict[str, AnyTool] = dict(tools)
    known: dict[str, Offer] = {}
    for origin, offer in offers:
        name = _identifier(offer.name)
        if name in used or counts[name] > 1:
            name = f"{origin}_{name}"[:MAX_NAME]
        while name in used:
            name += "_"
        used.add(name)
        known[name] = offer
        found[name] = Tool(name, offer.call, _signature(name, offer), details=_about(offer), origin=origin)
    if known:
        found[HELP] = _help(known)
    return found


def told(tools: Iterable[AnyTool]) -> list[str]:
    """What the root LM is told of tools: a line or more each; less of those of sources that have very many."""
    lines: list[str] = []
    theirs: list[Tool] = []
    for tool in tools:
        if isinstance(tool, Tool) and tool.origin:
            theirs.append(tool)
        else:
            lines.append(tool.told)
    for said in ([tool.told for tool in theirs], [tool.signature for tool in theirs]):
        if sum(map(len, said)) <= MAX_TOLD:
            return lines + said
    origins = dict.fromkeys(tool.origin for tool in theirs)
    for origin in origins:
        names = [tool.name for tool in theirs if tool.origin == origin]
        text = ""
        for number, name in enumerate(names):
            if len(text) + len(name) + 4 > MAX_TOLD // len(origins):
                text += f"and {len(names) - number} more, "
                break
            text += f"`{name}`, "
        lines.append(f"{len(names)} functions of {origin}: {text.removesuffix(', ')}")
    return lines


def one_line(text: str, most: int) -> str:
    """Text of others, as one line of what can be printed."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text[: 8 * most]).split())
    return line if len(line) <= most else line[: most - 3] + "..."


def _help(known: Mapping[str, Offer]) -> Tool:
    async def tool_help(name: str = "") -> str:
        if not name:
            return "\n".join(_signature(each, offer) + _about(offer) for each, offer in known.items())[
                :MAX_HELP
            ]
        if name not in known:
            raise SubcallError(
                f"{HELP}: there is no function {name[:100]!r} of a server{nearest(name, known)[:2000]}"
            )
        offer = known[name]
        return f"{name}{offer.arguments}\n\n{offer.description}\n\n{offer.details}"[:MAX_HELP]

    said = "what a function of a server does and takes, in full; without a name all of them, a line each"
    return Tool(HELP, tool_help, f"`{HELP}(name: str = '') -> str`: {said}")


def _signature(name: str, offer: Offer) -> str:
    return "`" + one_line(name + offer.arguments, MAX_SIGNATURE).replace("`", "'") + "`"


def _about(offer: Offer) -> str:
    said = one_line(offer.description, MAX_LINE)
    return f": {said}" if said else ""


def _identifier(name: str) -> str:
    """A name for code, of whatever a source calls it."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", name[:MAX_NAME]).strip("_") or "tool"
    return plain if not plain[0].isdigit() else f"tool_{plain}"


def _is_source(tool: Any) -> bool:
    return isinstance(tool, ToolSource) and not isinstance(tool, type)
