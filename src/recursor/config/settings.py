"""The tables of settings: what there is, and what goes together. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from recursor.config.servers import McpSettings
from recursor.errors import ConfigError
from recursor.limits import Limits
from recursor.models import Rates
from recursor.models.prices import Price
from recursor.routing import Routes


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What a model has of its own: a [models."openai/gpt-5"] table. None is the default of `recursor.LM`."""

    base_url: str | None = None
    """Endpoint, in place of the one of all models."""
    key: str | None = None
    """The environment variable, or the name in the keys file, of the key that is sent; None goes by the provider."""
    window: int | None = None
    """Tokens of input and output that it takes."""
    max_concurrency: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float | None = None
    """Seconds that the server may be silent."""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    """Of a reply."""
    reasoning_effort: str | None = None
    extra_body: dict[str, Any] | None = None
    """Further fields of each request."""
    price: Price | None = None

    def __post_init__(self) -> None:
        Rates(self.max_concurrency, self.requests_per_minute, self.tokens_per_minute)
        for name in ("window", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name, least in (("timeout", math.ulp(0.0)), ("temperature", 0.0), ("top_p", 0.0)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ConfigError(f"{name} must be {'0 or more' if not least else 'above 0'}, not {value!r}")
        for name in ("key", "base_url"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise ConfigError(f"{name} must not be empty")

    def given(self) -> dict[str, Any]:
        """Those that are set."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run uses unless a flag says otherwise."""

    profile: str | None = None
    """A [profiles.NAME] table, whose settings go before those of the file."""
    model: str | None = None
    """The root LM, "openai/gpt-5". None looks for one: see `recursor.cli.endpoints`."""
    sub_model: str | None = None
    """The sub-LM; None is the root LM."""
    routes: tuple[dict[str, Any], ...] = ()
    """In place of both: [[routes]] tables, as `recursor.routing.Route` has fields."""
    allow: tuple[str, ...] = ()
    """With routes: further models that code may ask for by name."""
    base_url: str | None = None
    """Endpoint of the models; None is the one that the provider's name stands for."""
    sandbox: str = "process"
    dialect: str = "default"
    strategy: Literal["rlm", "direct", "auto"] = "rlm"
    """"direct" answers by one plain call, "auto" does so where the input is small."""
    cache: Literal["workspace"] | None = None
    """"workspace" takes replies that any run in the store was given to the same request."""
    record: bool = True
    """Whether runs are recorded in the store."""
    store: str | None = None
    """Path of the store; None is runs.db in the state directory."""
    limits: Limits = field(default_factory=Limits)
    models: Mapping[str, ModelSettings] = field(default_factory=dict)
    """Spec -> what that model has of its own."""
    mcp: Mapping[str, McpSettings] = field(default_factory=dict)
    """Name -> a server whose tools code may call."""

    @property
    def uses(self) -> dict[str, str]:
        """Spec -> the setting that names it."""
        found = dict.fromkeys(self.models, "models")
        found |= dict.fromkeys(self.allow, "allow")
        found |= {str(route["model"]): "routes" for route in self.routes}
        found |= {self.sub_model: "sub_model"} if self.sub_model else {}
        return found | ({self.model: "model"} if self.model else {})


def check_routes(settings: Settings, origins: Mapping[str, str]) -> None:
    """Refuse routes that some call would find no model by."""
    if settings.allow and not settings.routes:
        raise ConfigError(f"{origins['allow']}: allow goes with [[routes]], and there are none")
    if settings.routes:
        try:
            Routes.from_table({"routes": list(settings.routes), "allow": list(settings.allow)})
        except ConfigError as error:
            raise ConfigError(f"{origins['routes']}: {error}") from error
