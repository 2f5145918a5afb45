"""What users pass to `RLM` -> the parts that its engine is made of. Checked before anything is paid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recursor import models, plugins
from recursor.errors import ConfigError
from recursor.protocols import Cache, Model, Sandbox, Sink
from recursor.routing import Routes


def routes(model: Any, sub_model: Any, base_url: str | None, api_key: str | None) -> Routes[Model]:
    def resolved(spec: str) -> Model:
        from recursor import config  # noqa: PLC0415 - only a spec needs files and environment

        return models.resolve(spec, base_url=base_url, api_key=api_key or config.api_key(spec))

    for name, said in (("base_url", base_url), ("api_key", api_key)):
        if not (said is None or isinstance(said, str) or (name == "api_key" and callable(said))):
            raise ConfigError(f"{name} must be a text or None, not {type(said).__name__}")
    if isinstance(model, Routes):
        if sub_model is not None:
            raise ConfigError("sub_model belongs into the routes: Routes.of(root, sub)")
        return model.resolved(resolved)
    for name, given in (("model", model), ("sub_model", sub_model)):
        if not isinstance(given, str | Model) and not (name == "sub_model" and given is None):
            raise ConfigError(
                f"{name} must be a spec such as 'openai/gpt-5' or an object with `name` and `query`"
            )
    return Routes.of(model, sub_model).resolved(resolved)


def sinks(given: Iterable[Sink | str]) -> list[Sink]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError(f"sinks must be a list of sinks or of their names, not {given!r}")
    return [_sink(each) for each in given]


def _sink(sink: Sink | str) -> Sink:
    found: Sink = plugins.load("recursor.sinks", sink)() if isinstance(sink, str) else sink
    if not isinstance(found, Sink):
        raise ConfigError(
            f"a sink is an object with `emit` and `flush`, or a name such as 'otel', not {found!r}"
        )
    return found


def store(store: Any) -> Sink | None:
    if store is None:
        return None
    from recursor.trajectory.store import resolve_store  # noqa: PLC0415 - imports sqlite3

    return resolve_store(store)


def sandbox(sandbox: str | Sandbox, mounts: Mapping[str, str | Path] | None) -> Sandbox:
    if not isinstance(sandbox, str):
        if not callable(getattr(sandbox, "open", None)):
            raise ConfigError(
                f"sandbox must be a name such as 'process' or an object with `open`, not {sandbox!r}"
            )
        if mounts is not None:
            raise ConfigError("mounts go to a sandbox by name; give them to the sandbox that you have made")
        return sandbox
    from recursor import config  # noqa: PLC0415 - as above

    made: Sandbox = config.sandbox(sandbox, **({} if mounts is None else {"mounts": mounts}))
    return made


def cache(cache: str | None, store: Any) -> Cache | None:
    if cache is None:
        return None
    if cache != "workspace":
        raise ConfigError(f"cache must be 'workspace' or None, not {cache!r}")
    from recursor.trajectory.journal import StoreCache  # noqa: PLC0415 - imports sqlite3

    return StoreCache(store_path(store, "a cache needs a store"))


def store_path(store: Any, need: str) -> Path:
    """The file of a store. Raises ConfigError, with what needs it, where there is none."""
    path = getattr(store, "path", None)
    if not isinstance(path, Path):
        raise ConfigError(f"{need}: RLM(..., store=path)")
    return path


def check_models(routes: Routes[Model], model: str, sub_model: str) -> None:
    """Raise ConfigError where the models that made a recorded run are not among these."""
    for purpose, was in (("root", model), ("sub", sub_model)):
        if was not in routes.names:
            raise ConfigError(
                f"the {purpose} calls of the run were made by {was!r}, and this RLM has "
                f"{', '.join(map(repr, routes.names))}"
            )
