"""What of a run changes while it goes: the tree as a few lines. Pure: the clock is passed in.

Everything that came from a model or a context is cleaned and cut here.
"""

from __future__ import annotations

from recursor.cli.lines import Row, failures, fit
from recursor.cli.text import NAME, cells, clean, count, cut, money, preview
from recursor.cli.tree import Count, Node, Tree, Work

BRANCHES = 5
"""Child runs that are shown; the rest is a number."""
GROUPS = 4
"""Models and prompts that are shown, each."""
CODE = 5
BAR = 24
WIDEST = 100
"""A frame is no wider: there is nothing to fill it with, and it survives a window that shrinks."""


def frame(tree: Tree, width: int, now: float) -> list[Row]:
    """The lines below the ones that stay."""
    width = min(width - 1, WIDEST)
    root = tree.root
    if root is None:
        return [[("dim", cut("starting the sandbox …", width))]]
    rows: list[Row] = [[], [("bold", f"turn {root.turn or 1}"), ("dim", cut(_where(tree, root), width - 8))]]
    branches = [_said(root, width), _calls(root.work, width, now), _children(root, width, now)]
    for branch in branches:
        rows += [[("dim", "├ " if not at else "│ "), *row] for at, row in enumerate(branch)]
    spent = _spent(tree, width - 2, now)
    rows += [[("dim", ("├ " if at + 1 < len(spent) else "└ ") + line)] for at, line in enumerate(spent)]
    return rows


def status(tree: Tree, now: float) -> str:
    """The frame in one line, for where nothing can be redrawn."""
    root = tree.root
    if root is None:
        return "starting the sandbox"
    work = root.work
    parts = [f"turn {root.turn or 1}{_where(tree, root)}", *_counted(work, now)]
    if work.children.total:
        parts.append(f"child RLMs: {_of(work.children)}")
    return " · ".join([*parts, *_limits(tree, now)])


def _where(tree: Tree, root: Node) -> str:
    return f" of {tree.limits.max_turns} · {_doing(root)}"


def _doing(node: Node) -> str:
    if node.doing == "running":
        return "running code"
    return (
        f"{preview(node.model, NAME)} replies"
        if node.doing == "replying"
        else f"asking {preview(node.model, NAME)}"
    )


def _said(root: Node, width: int) -> list[Row]:
    """The code that runs, or the end of the reply that is coming."""
    if root.doing == "running":
        lines = [line for line in clean(root.code).split("\n") if line.strip()]
        more = len(lines) - CODE
        rows: list[Row] = [[("cyan", cut(line.expandtabs(4), width - 2))] for line in lines[:CODE]]
        return [*rows, [("dim", f"… {count(more, 'more line')}")]] if more > 0 else rows
    tail = clean(root.reply[-8 * width :]) if root.doing == "replying" else ""
    return [
        [("dim", cut(line.expandtabs(4), width - 2))] for line in tail.strip("\n").split("\n")[-3:] if line
    ]


def _calls(work: Work, width: int, now: float) -> list[Row]:
    """Plain sub-calls: how far they are, then by model where there are several, then by prompt."""
    calls = work.calls
    if not calls.total:
        return []
    drawn = bar(calls) if width >= 60 and calls.expected else []
    room = width - 2 - len("sub-calls  ") - (BAR + 2 if drawn else 0)
    parts, pace = _counted(work, now)[0].removeprefix("sub-calls: "), _pace(work, now)
    first: Row = [("", "sub-calls  "), *drawn, ("", fit(parts.split(" · "), room))]
    rows = [first] if not pace else [first, [("dim", " " * len("sub-calls  ") + fit(pace, width - 13))]]
    if len(work.models) > 1:
        most = sorted(work.models.items(), key=lambda each: -each[1].total)
        rows += _table([(preview(name, NAME), _progress(each)) for name, each in most], width)
    groups = [group for group in work.templates.largest(GROUPS + 1) if group.done + group.failed > 1]
    if groups:
        rows += _table(
            [(f"“{preview(str(each), 200)}”", f"{each.done:,}{failures(each.failed)}") for each in groups],
            width,
        )
    return rows


def _table(pairs: list[tuple[str, str]], width: int) -> list[Row]:
    """Names and what belongs to them, in two columns."""
    shown = pairs[:GROUPS]
    right = min(width // 2, max(cells(value) for _, value in shown))
    left = min(max(cells(name) for name, _ in shown), width - 2 - 2 - 2 - right)
    rows: list[Row] = []
    for name, value in shown:
        label = cut(name, left)
        rows.append([("dim", "  " + label + " " * (left - cells(label) + 2)), ("", cut(value, right))])
    more = len(pairs) - len(shown)
    return [*rows, [("dim", f"  and {more} more")]] if more > 0 else rows


def _children(node: Node, width: int, now: float) -> list[Row]:
    """Child runs, and those that they started: branches of the tree."""
    children = node.work.children
    if not children.total:
        return []
    drawn = bar(children) if width >= 60 and children.expected else []
    room = width - 2 - len("child RLMs ") - (BAR + 2 if drawn else 0)
    rows: list[Row] = [[("", "child RLMs "), *drawn, ("", fit(_of(children).split(" · "), room))]]
    rows += _branches(node, width - 2, now, BRANCHES)
    return rows


def _branches(node: Node, width: int, now: float, most: int) -> list[Row]:
    every = list(node.children.values())
    shown, rest = every[:most], len(every) - most
    rows: list[Row] = []
    for at, child in enumerate(shown):
        last = at + 1 == len(shown) and rest <= 0
        room = width - 2
        words = whereabouts(child, now)
        question = preview(child.question, max(8, room - cells(words) - 3))
        line = cut(f"{question} · {words}", room)
        asked = line[: len(question)]
        rows.append([("dim", "└ " if last else "├ "), ("", asked), ("dim", line[len(asked) :])])
        if width > 30:
            below = _branches(child, room, now, 2)
            rows += [[("dim", "  " if last else "│ "), *row] for row in below]
    return [*rows, [("dim", f"└ and {rest:,} more")]] if rest > 0 else rows


def whereabouts(node: Node, now: float) -> str:
    """Where a run is, in words."""
    parts = [
        f"turn {node.turn or 1}",
        "code" if node.doing == "running" else "model",
        rounded(now - node.began),
    ]
    calls = node.work.calls
    if calls.total:
        parts.append(f"{calls.ended:,} of {calls.total:,}")
    return " · ".join(parts)


def _counted(work: Work, now: float) -> list[str]:
    """Plain sub-calls in words, and how fast they go."""
    return [f"sub-calls: {_of(work.calls)}", *_pace(work, now)] if work.calls.total else []


def _of(counted: Count) -> str:
    parts = [f"{counted.ended:,} of {counted.total:,}" if counted.expected else f"{counted.ended:,} done"]
    parts += [f"{counted.running:,} running"] if counted.running else []
    parts += [f"{counted.failed:,} failed"] if counted.failed else []
    return " · ".join(parts)


def _progress(counted: Count) -> str:
    running = f", {counted.running:,} running" if counted.running else ""
    return f"{counted.done:,}{running}{failures(counted.failed)}"


def _pace(work: Work, now: float) -> list[str]:
    rate, left = work.left(now)
    if rate is None:
        return []
    speed = f"{rate:,.0f} a second" if rate >= 3 else f"{60 * rate:,.0f} a minute"
    retried = [f"{work.retried:,} retried"] if work.retried else []
    return [speed, *([f"about {rounded(left)} left"] if left is not None else []), *retried]


def rounded(duration: float) -> str:
    """A time that was guessed: no finer than it deserves."""
    if duration < 60:
        return f"{max(1, round(duration))} s"
    minutes = round(duration / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def bar(counted: Count) -> Row:
    """How many have ended, as a bar and two spaces."""
    ended, total = counted.ended, max(1, counted.total)
    filled = min(BAR, BAR * ended // total)
    failed = min(filled, -(-BAR * counted.failed // total)) if counted.failed else 0
    return [
        ("green", "━" * (filled - failed)), ("red", "━" * failed), ("dim", "─" * (BAR - filled)), ("", "  "),
    ]  # fmt: skip


def _limits(tree: Tree, now: float) -> list[str]:
    """Tokens, money and time, each against its limit."""
    limits = tree.limits
    tokens = f"{tree.usage.total_tokens:,}" + (f" of {limits.max_tokens:,}" if limits.max_tokens else "")
    cost = money(tree.cost) + (f" of {money(limits.max_cost)}" if limits.max_cost else "")
    took = rounded(now - tree.began) + (f" of {rounded(limits.max_time)}" if limits.max_time else "")
    calls = f"{tree.usage.calls:,} of {limits.max_calls:,} calls" if limits.max_calls else ""
    return [part for part in (f"{tokens} tokens", cost, took, calls) if part]


def _spent(tree: Tree, width: int, now: float) -> list[str]:
    """The same, on as many lines as it takes."""
    lines = [""]
    for part in _limits(tree, now):
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if cells(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(part)
    return [cut(line, width) for line in lines]
