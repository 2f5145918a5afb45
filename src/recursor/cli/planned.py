"""What a run would be: what is asked, over what, by whom, in what sandbox, and what it may cost.

Nothing is sent, not even a probe of whether a server answers, and nothing is recorded. Files are found and sized, and
where a name tells nothing the first bytes are read. The sandbox is opened, where that is a process of this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from recursor import config, plugins, prompt, prompts
from recursor.cli import endpoints
from recursor.cli.described import own_of
from recursor.context import prepare
from recursor.context.loaders import head_of, is_text, kind_of
from recursor.engine import DIRECT
from recursor.errors import ConfigError, RLMError
from recursor.files import Url
from recursor.governance import check_prices
from recursor.limits import SHARED, Limits
from recursor.lm import LM
from recursor.models.presets import split
from recursor.protocols import Model
from recursor.questions import pooled
from recursor.record import public_url
from recursor.routing import Routes
from recursor.sandboxes.folders import FolderSource
from recursor.sandboxes.guest import kinds
from recursor.trajectory import view
from recursor.types import ContextInfo, Isolation, Usage

BYTES_PER_TOKEN = 4.0
"""Of text, until the store tells more of a model."""
LEARNED_FROM = 20
"""Runs, the newest ones of a model, that tell it."""
LEAST_REPLY = 200
"""Tokens of a short reply."""
PIECE, PIECE_REPLY = 10_000, 500
"""Tokens of each call, in and out, when a context is read once, piece by piece."""
PREVIEW = 500
"""Characters of a context that the root LM is shown."""
LOCAL = ("process", "inprocess")
"""Sandboxes that are tried: they are on this machine, and nothing has to be fetched for them."""
NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class File:
    """A file of the context."""

    name: str
    bytes: int | None
    """None for what is fetched."""
    read_as: str


@dataclass(frozen=True, slots=True)
class Context:
    """What a question is asked over."""

    bytes: int | None
    files: tuple[File, ...]
    tokens: int | None
    """About, of the files that are text; None where none is."""
    uncounted: int
    """Files that are no text: what they hold is not known before they are read."""
    bytes_per_token: float
    learned: bool
    """Whether recorded runs of the root LM tell that."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A model, as it would be asked."""

    purpose: str
    name: str
    endpoint: str
    key: str
    priced: bool
    reachable: str = NOT_TRIED


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars, for all questions; None where a price is not known, or nothing bounds it."""

    least: float | None
    """A short reply of the root LM to each question, or one plain call."""
    reading_once: float | None
    """That, and the sub-LM reading all text once."""
    most: float | None
    """By the limits."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done."""

    questions: int
    context: Context | None
    strategy: str
    models: tuple[Asked, ...]
    cost: Cost
    sandbox: str
    isolation: Isolation | None
    """None where it was not tried, or cannot be had."""
    problem: str
    """Why there is no sandbox; empty where there is one, or it was not tried."""
    limits: dict[str, Any]
    """Of each question: value and origin by name."""
    total: dict[str, Any]
    """Of all together."""
    store: str | None
    servers: tuple[str, ...]
    """Of MCP, whose tools code would have; not started."""


def plan(
    loaded: config.Config, given: Any, question: str, questions: int = 1, total: Limits | None = None
) -> Plan:
    """Say what would be done. Raises ConfigError where a run would."""
    settings = loaded.settings
    models = _models(loaded)
    bounds_of_money = (settings.limits.max_cost, pooled(total).max_cost)
    if any(bound is not None for bound in bounds_of_money):
        check_prices(models.values(), strict=False)
    plugins.load("recursor.sandboxes", settings.sandbox)
    root = models["root"] if models else None
    ratio = _learned(loaded.store_path, root.name) if root and loaded.store_path.is_file() else None
    context = None if given is None else _context(given, ratio)
    strategy = _strategy(settings, context, root)
    isolation, problem = _tried(settings.sandbox)
    bounds = {name: {"value": getattr(settings.limits, name), "origin": loaded.origins[f"limits.{name}"]}
              for name in asdict(settings.limits)}  # fmt: skip
    return Plan(
        questions=questions, context=context, strategy=strategy,
        models=tuple(_asked(purpose, model, settings) for purpose, model in models.items()),
        cost=_Costs(models, questions, context).of(settings, strategy, question, pooled(total)),
        sandbox=settings.sandbox, isolation=isolation, problem=problem, limits=bounds,
        total={name: getattr(pooled(total), name) for name in SHARED} if total else {},
        store=str(loaded.store_path) if settings.record else None, servers=tuple(settings.mcp),
    )  # fmt: skip


def _models(loaded: config.Config) -> dict[str, Model]:
    """The models of the root and of plain sub-calls, without their keys; empty when none is named."""
    settings = loaded.settings

    def made(spec: str) -> Model:
        own = own_of(spec, settings).given()
        own.pop("key", None)
        return LM(spec, base_url=own.pop("base_url", settings.base_url), api_key=NOT_TRIED, **own)

    if settings.routes and loaded.origins["model"] != "--model":
        routes = Routes.from_table({"routes": list(settings.routes), "allow": list(settings.allow)}).resolved(
            made
        )
        return {"root": routes.choose("root", 0), "sub": routes.choose("sub", 0)}
    if settings.model is None:
        return {}
    return {"root": made(settings.model), "sub": made(settings.sub_model or settings.model)}


def _asked(purpose: str, model: Model, settings: config.Settings) -> Asked:
    own = own_of(model.name, settings)
    preset, _ = split(model.name, own.base_url or settings.base_url)
    keys = endpoints.detect_keys()
    if own.key is not None:
        key = own.key
    elif preset.provider in keys:
        key = keys[preset.provider]
    else:
        key = "none is set, and one is needed" if preset.needs_key else "none"
    address = public_url(preset.base_url) or ""
    return Asked(purpose, model.name, address, key, bool(getattr(model, "priced", False)))


# The context -----------------------------------------------------------------------------------------


def _context(given: Any, ratio: float | None) -> Context:
    files = tuple(_files(given))
    sizes = [each.bytes for each in files]
    texts = [each.bytes or 0 for each in files if each.read_as.startswith("text")]
    each = ratio or BYTES_PER_TOKEN
    return Context(
        bytes=None if None in sizes else sum(size or 0 for size in sizes), files=files,
        tokens=round(sum(texts) / each) if texts else None, uncounted=len(files) - len(texts),
        bytes_per_token=each, learned=ratio is not None,
    )  # fmt: skip


def _files(given: Any) -> Iterator[File]:
    """What the paths stand for, file by file. Addresses are not fetched."""
    if isinstance(given, Url):
        yield File(given.shown, None, "what the server says it is; not fetched")
        return
    if isinstance(given, list) and any(isinstance(each, Url) for each in given):
        for each in given:
            yield from _files(each)
        return
    source = prepare(given)
    if isinstance(source, FolderSource):
        for document in source.documents:
            head = head_of(Path(document.path))
            kind = document.kind
            if kind == kinds.UNKNOWN:
                kind = kind_of(document.name, document.size, head)
            yield File(document.name, document.size, _told(kind, head))
        return
    kind = source.form.partition(":")[2] if source.form.startswith("file") else ""
    head = head_of(Path(source.origin)) if source.form.startswith("file") and source.origin else b""
    said = "bytes" if source.form == "bytes" else _told(kind, head)
    yield File(source.origin or "standard input", source.size, said)


def _told(kind: str, head: bytes) -> str:
    """What a file of a kind is read as, in words."""
    if not kind:
        return "bytes" if b"\0" in head else "text"
    if kind == "old":
        return "not read: of Office before 2007"
    return f"text, as {kind}" if is_text(kind) else f"by {kind}" if ":" in kind else kind


def _learned(store: Path, model: str) -> float | None:
    """Bytes of a token, by what the last runs of a model sent and were billed; None when there are none."""
    size = tokens = 0
    with view.open(store) as recorded:
        runs = (run for run in recorded.runs(10 * LEARNED_FROM) if run.model == model)
        for run in islice(runs, LEARNED_FROM):
            call = next((each for each in recorded.each_call(run.id) if each.usage and not each.cached), None)
            if call is not None and call.usage is not None and call.usage.input_tokens:
                size += sum(len(each.content.encode("utf-8", "replace")) for each in recorded.messages(call))
                tokens += call.usage.input_tokens
    return size / tokens if tokens else None


# What it may cost ------------------------------------------------------------------------------------


def _strategy(settings: config.Settings, context: Context | None, root: Model | None) -> str:
    if settings.strategy != "auto":
        return settings.strategy
    size = 0 if context is None else context.bytes
    window = getattr(root, "window", None) or DIRECT
    opaque = context is not None and any(not each.read_as.startswith("text") for each in context.files)
    fits = size is not None and size <= min(DIRECT, window)
    return "direct" if fits and not opaque and not settings.mcp else "rlm"


@dataclass(frozen=True, slots=True)
class _Costs:
    """Works out what a number of questions may cost."""

    models: dict[str, Model]
    questions: int
    context: Context | None

    def of(self, settings: config.Settings, strategy: str, question: str, total: Limits) -> Cost:
        first = self._first(settings, strategy, question)
        least = once = None if first is None else first * self.questions
        if strategy == "rlm" and self.context is not None:
            piece = self._price("sub", Usage(PIECE, PIECE_REPLY))
            tokens = None if self.context.uncounted else self.context.tokens
            known = least is not None and piece is not None and tokens is not None
            once = (least or 0.0) + self.questions * (piece or 0.0) * (tokens or 0) / PIECE if known else None
        return Cost(least, once, self._most(settings.limits, total))

    def _first(self, settings: config.Settings, strategy: str, question: str) -> float | None:
        """One call of the root LM with a short reply."""
        context = self.context
        each = context.bytes_per_token if context else BYTES_PER_TOKEN
        if strategy == "direct":
            if context is not None and context.uncounted:
                return None
            tokens = round(len(question) / each) + (context.tokens or 0 if context else 0)
            return self._price("root", Usage(tokens, LEAST_REPLY))
        infos = [ContextInfo("context", "str", "", "x" * PREVIEW)] if context is not None else []
        messages = prompt.opening(prompts.load(settings.dialect), question, infos)
        size = sum(len(message.content) for message in messages)
        return self._price("root", Usage(round(size / each), LEAST_REPLY))

    def _most(self, limits: Limits, total: Limits) -> float | None:
        """The smallest of the bounds in force, in dollars."""
        bounds = [total.max_cost, None if limits.max_cost is None else limits.max_cost * self.questions]
        dear = [
            self._price(purpose, usage)
            for purpose in self.models
            for usage in (Usage(0, PIECE), Usage(PIECE, 0))
        ]
        if dear and None not in dear:
            each = max(cost or 0.0 for cost in dear) / PIECE
            tokens = [
                total.max_tokens,
                None if limits.max_tokens is None else limits.max_tokens * self.questions,
            ]
            bounds += [each * bound for bound in tokens if bound is not None]
        return min((bound for bound in bounds if bound is not None), default=None)

    def _price(self, purpose: str, usage: Usage) -> float | None:
        price = getattr(self.models.get(purpose), "price", None)
        found: float | None = price(usage) if price else None
        return found


def _tried(sandbox: str) -> tuple[Isolation | None, str]:
    """What stands between code and this machine, and why there is nothing of the kind."""
    if sandbox.partition(":")[0] not in LOCAL:
        return None, ""
    try:
        return asyncio.run(_opened(sandbox)), ""
    except (RLMError, ConfigError) as error:
        return None, str(error)


async def _opened(sandbox: str) -> Isolation:
    repl = await config.sandbox(sandbox).open()
    await repl.close()
    found: Isolation = repl.isolation
    return found
