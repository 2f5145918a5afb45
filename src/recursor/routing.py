"""Which model serves which call: by purpose, depth, size, money spent, or by what code asked for. Pure.

`choose` without a wish always finds a model: `Routes` is refused otherwise when it is made. A wish that
cannot be granted is an error, never another model.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from recursor.errors import ConfigError
from recursor.protocols import Model
from recursor.types import Purpose

M_co = TypeVar("M_co", bound="str | Model", covariant=True)
"""A spec, "openai/gpt-5", or a model."""
Kind: TypeAlias = Literal["root", "sub"]

LONG_CONTEXT = "long_context"
"""The capability that is also taken by itself, from a route's `min_characters` on."""
VISION = "vision"
"""The capability that is also taken by itself, for prompts with pictures."""


@dataclass(frozen=True, slots=True)
class Route(Generic[M_co]):
    """When a model is taken. All conditions must hold; one that is not given always does.

    Attributes:
        model: a spec, "openai/gpt-5", or a model.
        purpose: "root" writes code in a REPL (and sums up its old turns), "sub" answers plain sub-calls;
            None does both.
        min_depth: depth of the run that calls, from which on it is taken; the root is 0.
        max_depth: the last depth at which it is.
        capability: a word such as "vision", "code" or "long_context". A route that has one is taken
            when code asks for it only; "long_context" with `min_characters` also for what is so long, and
            "vision" for prompts with pictures.
        min_characters: length of the prompt. A route with a length is for plain sub-calls: the prompt of a
            root LM grows, and begins without its context.
        max_characters: length of the prompt.
        max_spent: US dollars; taken as long as the run, children included, has cost less. When its
            cost is not known, such a route is not taken.

    Raises:
        ConfigError: a value that makes no sense.
    """

    model: M_co
    purpose: Kind | None = None
    min_depth: int = 0
    max_depth: int | None = None
    capability: str | None = None
    min_characters: int = 0
    max_characters: int | None = None
    max_spent: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, Model) and not (isinstance(self.model, str) and self.model.strip()):
            raise ConfigError(f"a model must be a spec such as 'openai/gpt-5' or a model, not {self.model!r}")
        if self.purpose not in ("root", "sub", None):
            raise ConfigError(f'Route.purpose must be "root" or "sub", not {self.purpose!r}')
        word = self.capability
        if word is not None and not (isinstance(word, str) and word.isidentifier()):
            raise ConfigError(f'Route.capability must be a word such as "vision", not {word!r}')
        for name in ("min_depth", "max_depth", "min_characters", "max_characters"):
            value = getattr(self, name)
            unset = value is None and name.startswith("max")
            if not unset and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise ConfigError(f"Route.{name} must be a whole number of at least 0, not {value!r}")
        spent = self.max_spent
        if spent is not None and (
            isinstance(spent, bool) or not isinstance(spent, int | float) or not 0 <= spent < math.inf
        ):
            raise ConfigError(f"Route.max_spent must be US dollars, 0 or more, not {spent!r}")
        for least, most in (("min_depth", "max_depth"), ("min_characters", "max_characters")):
            bound = getattr(self, most)
            if bound is not None and bound < getattr(self, least):
                raise ConfigError(f"Route.{most} must not be less than its {least}")
        if self.purpose == "root" and (self.min_characters or self.max_characters is not None):
            raise ConfigError('Route.purpose "root" goes with no length: the prompt of a root LM grows')

    @property
    def name(self) -> str:
        """The model's name."""
        return _name(self.model)

    @property
    def conditional(self) -> bool:
        """Whether more than purpose and depth decides."""
        return (
            self.capability is not None
            or self.min_characters > 0
            or self.max_characters is not None
            or self.max_spent is not None
        )

    def serves(self, purpose: Purpose, depth: int) -> bool:
        """Whether it is for calls of that purpose at that depth."""
        kind = "sub" if purpose == "sub" else "root"
        deepest = math.inf if self.max_depth is None else self.max_depth
        if kind == "root" and (
            self.max_characters is not None or (self.min_characters and not self.capability)
        ):
            return False
        return self.purpose in (kind, None) and self.min_depth <= depth <= deepest

    def affordable(self, spent: float | None) -> bool:
        """Whether its cost ceiling is not reached."""
        return self.max_spent is None or (spent is not None and spent < self.max_spent)

    def fits(self, characters: int, wanted: str | None) -> bool:
        """Whether it is for prompts of that length, and for what was asked for."""
        long = self.capability == LONG_CONTEXT and self.min_characters > 0
        if self.max_characters is not None and characters > self.max_characters:
            return False
        if wanted is not None:
            return self.capability == wanted and (long or characters >= self.min_characters)
        return (self.capability is None or long) and characters >= self.min_characters


@dataclass(frozen=True, slots=True)
class Routes(Generic[M_co]):
    """Routes in order: the first that fits is taken.

    Attributes:
        routes: at every depth, one without further conditions must serve each purpose.
        allow: further models that code may ask for by name.

    Raises:
        ConfigError: some call would find no model, or a word could mean two.
    """

    routes: Sequence[Route[M_co]]
    allow: Sequence[M_co] = ()

    def __post_init__(self) -> None:
        for name, kind, what in (
            ("routes", Route, "routes"),
            ("allow", str | Model, "specs or models"),
        ):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise ConfigError(f"Routes.{name} must be a list of {what}, not {given!r}")
            for each in given:
                if not isinstance(each, kind) or each == "":
                    raise ConfigError(f"Routes.{name} must be a list of {what}, and has {each!r}")
            object.__setattr__(self, name, tuple(given))
        twice = next((word for word in self.capabilities if word in self.names), None)
        if twice is not None:
            raise ConfigError(f"{twice!r} is a capability and the name of a model: code could not say which")
        self._refuse_hole("root", "a root LM")
        self._refuse_hole("sub", "plain sub-calls")

    @staticmethod
    def of(
        root: str | Model,
        sub: str | Model | None = None,
        *,
        child: str | Model | None = None,
        cheap: str | Model | None = None,
        cheap_after: float | None = None,
        long_from: int = 0,
        allow: Sequence[str | Model] = (),
        **capabilities: str | Model,
    ) -> Routes[str | Model]:
        """Return the routes of the usual case.

        Args:
            root: the root LM.
            sub: answers sub-calls; None takes the root LM.
            child: the root LM of child runs; None takes `sub`.
            cheap: takes over from `sub` and `child` when a run has cost `cheap_after` US dollars.
            long_from: characters of a prompt from which the model for `long_context` is taken by itself;
                with 0 only when code asks for it.
            allow: further models that code may ask for by name.
            **capabilities: the model for each word that code may ask for: `vision=...`, `code=...`.

        Raises:
            ConfigError: as `Route` and `Routes`, or half of a pair was given.
        """
        if (cheap is None) != (cheap_after is None):
            raise ConfigError("cheap and cheap_after need each other")
        if long_from and LONG_CONTEXT not in capabilities:
            raise ConfigError(f"long_from needs a model for {LONG_CONTEXT}")
        leaf = root if sub is None else sub
        routes = [
            Route(model, capability=word, min_characters=long_from if word == LONG_CONTEXT else 0)
            for word, model in capabilities.items()
        ]
        routes.append(Route(root, "root", max_depth=0))
        routes.append(Route(leaf if child is None else child, "root", min_depth=1, max_spent=cheap_after))
        routes.append(Route(leaf, "sub", max_spent=cheap_after))
        if cheap is not None:
            routes.append(Route(cheap))
        return Routes(routes, allow)

    @staticmethod
    def from_table(table: Mapping[str, Any]) -> Routes[str]:
        """Read what a TOML file says: `[[routes]]` tables with the fields of `Route`, and a list `allow`.

        Raises:
            ConfigError: a key is unknown or a value wrong; the text says in which table.
        """
        _known(table, ("routes", "allow"), "routes")
        rows = table.get("routes", [])
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise ConfigError("routes must be [[routes]] tables")
        found: list[Route[str]] = []
        names = [field.name for field in fields(Route)]
        for number, row in enumerate(rows, 1):
            where = f"[[routes]] number {number}"
            _known(row, names, where)
            if not isinstance(row.get("model"), str):
                raise ConfigError(f"{where} needs a model, a string")
            try:
                found.append(Route(**row))
            except ConfigError as error:
                raise ConfigError(f"{where}: {str(error).removeprefix('Route.')}") from error
        allow = table.get("allow", [])
        if not isinstance(allow, list) or not all(isinstance(each, str) for each in allow):
            raise ConfigError(f"allow must be a list of strings, not {allow!r}")
        return Routes(found, allow)

    def table(self) -> dict[str, Any]:
        """The routes as `from_table` reads them, with the names of the models."""
        rows = []
        for route in self.routes:
            row = {field.name: getattr(route, field.name) for field in fields(route)}
            rows.append(
                {name: value for name, value in row.items() if value is not None} | {"model": route.name}
            )
        return {"routes": rows, "allow": [_name(model) for model in self.allow]}

    @property
    def models(self) -> tuple[M_co, ...]:
        """Each model once, those of the routes first."""
        found: list[M_co] = []
        for model in (*(route.model for route in self.routes), *self.allow):
            if model not in found:
                found.append(model)
        return tuple(found)

    @property
    def names(self) -> tuple[str, ...]:
        """What code may ask for by name."""
        return tuple(dict.fromkeys(_name(model) for model in self.models))

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What code may ask for by what it needs."""
        return tuple(dict.fromkeys(route.capability for route in self.routes if route.capability))

    def choose(
        self,
        purpose: Purpose,
        depth: int,
        *,
        characters: int = 0,
        spent: float | None = 0.0,
        wanted: str | None = None,
        pictures: bool = False,
    ) -> M_co:
        """Return the model for a call.

        Args:
            depth: of the run that calls, or that is to begin: the root is 0.
            characters: length of the prompt.
            spent: US dollars that the run has cost, children included; None when that is not known.
            wanted: the name of a model or a capability, as code in the REPL asked for it.
            pictures: whether some go with the prompt.

        Raises:
            LookupError: what is wanted is not to be had; the text names what is.
        """
        if wanted is not None and wanted in self.names:
            return self._named(wanted, spent)
        if pictures and wanted is None and VISION in self.capabilities:
            with suppress(LookupError):
                return self.choose(purpose, depth, characters=characters, spent=spent, wanted=VISION)
        for route in self.routes:
            if route.serves(purpose, depth) and route.affordable(spent) and route.fits(characters, wanted):
                return route.model
        assert wanted is not None, "a Routes without a wish has no hole"
        raise LookupError(self._refusal(wanted))

    def resolved(self, make: Callable[[str], Model]) -> Routes[Model]:
        """Return the same routes with a model for each spec. Equal specs become one model."""
        made: dict[str, Model] = {spec: make(spec) for spec in self.models if isinstance(spec, str)}

        def model(each: str | Model) -> Model:
            return made[each] if isinstance(each, str) else each

        routes: list[Any] = [
            replace(route, model=model(route.model))  # type: ignore[arg-type]  # of the new type
            for route in self.routes
        ]
        return Routes(routes, [model(each) for each in self.allow])

    def _named(self, name: str, spent: float | None) -> M_co:
        """Return an allowed model by its name. A cost ceiling holds for those who ask for it, too."""
        for route in self.routes:
            if route.name == name and route.affordable(spent):
                return route.model
        for model in self.allow:
            if _name(model) == name:
                return model
        dollars = "unknown" if spent is None else f"${spent:.4f}"
        raise LookupError(f"model {name!r} is not to be had any more, at a cost so far of {dollars}")

    def _refusal(self, wanted: str) -> str:
        named = " or ".join(map(repr, self.names))
        if wanted in self.capabilities:
            return f"no model with {wanted!r} takes this call; use {named}, or None"
        able = ", ".join(map(repr, self.capabilities))
        return f"model {wanted!r} is not allowed here; use {named}, {able + ', ' if able else ''}or None"

    def _refuse_hole(self, purpose: Kind, calls: str) -> None:
        plain = [route for route in self.routes if not route.conditional]
        # Only there does it change which of them serve.
        depths = {0, *(route.min_depth for route in plain)}
        depths |= {route.max_depth + 1 for route in plain if route.max_depth is not None}
        for depth in sorted(depths):
            if not any(route.serves(purpose, depth) for route in plain):
                raise ConfigError(
                    f"no route serves {calls} at depth {depth} whatever the prompt and the cost: "
                    'end with one like Route("openai/gpt-5")'
                )


def _name(model: str | Model) -> str:
    return model if isinstance(model, str) else model.name


def _known(table: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Refuse a key that is none of these."""
    unknown = next((key for key in table if key not in names), None)
    if unknown is not None:
        close = difflib.get_close_matches(str(unknown), names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{where}: unknown key {unknown!r}{hint} (known: {', '.join(names)})")
