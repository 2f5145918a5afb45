"""Models as settings describe them: a spec, or an `LM` where the spec has a table of its own."""

from __future__ import annotations

from typing import Any

from recursor import config
from recursor.errors import ConfigError
from recursor.lm import LM
from recursor.routing import Routes


def model_of(spec: str, settings: config.Settings) -> str | LM:
    """Return what stands for a spec under the settings.

    Raises:
        ConfigError: its table names a key that is not there, or a value is wrong.
    """
    return _described(spec, settings) if spec in settings.models else spec


def routes_of(settings: config.Settings) -> Routes[Any]:
    """Return the routes of the settings, with the settings of their models."""
    routes = Routes.from_table({"routes": list(settings.routes), "allow": list(settings.allow)})
    if not settings.models.keys() & set(routes.names):
        return routes
    return routes.resolved(lambda spec: _described(spec, settings))


def _described(spec: str, settings: config.Settings) -> LM:
    own = settings.models.get(spec, config.ModelSettings()).given()
    key, base_url = own.pop("key", None), own.pop("base_url", settings.base_url)
    try:
        return LM(spec, base_url=base_url, api_key=key and _key(key), **own)
    except ConfigError as error:
        raise ConfigError(f"{config.written(('models', spec))}: {error}") from error


def _key(name: str) -> str:
    found = config.secret(name, name)
    if found is None:
        raise ConfigError(f"key: {name!r} is neither an environment variable nor in {config.keys_file()}")
    return found
