"""Models as settings describe them: a spec, or an `LM` where the spec has a table of its own.

A local server is asked for its window where the settings do not say it: it may cut longer prompts without a word.
"""

from __future__ import annotations

from typing import Any

import click

from recursor import config
from recursor.cli import windows
from recursor.cli.text import clean
from recursor.errors import ConfigError
from recursor.lm import LM
from recursor.routing import Routes


def model_of(spec: str, settings: config.Settings, *, quiet: bool) -> str | LM:
    """Return what stands for a spec under the settings.

    Args:
        quiet: whether nothing is said of a small window.

    Raises:
        ConfigError: its table names a key that is not there, or a value is wrong.
    """
    window = _asked(spec, settings, quiet=quiet)
    return described(spec, settings, window) if spec in settings.models or window else spec


def routes_of(settings: config.Settings, *, quiet: bool) -> Routes[Any]:
    """Return the routes of the settings, with the settings of their models."""
    routes = Routes.from_table({"routes": list(settings.routes), "allow": list(settings.allow)})
    found = {spec: model_of(spec, settings, quiet=quiet) for spec in routes.names}
    if not any(isinstance(model, LM) for model in found.values()):
        return routes
    return routes.resolved(lambda spec: as_lm(found[spec], settings))


def described(spec: str, settings: config.Settings, window: int | None = None) -> LM:
    """Return the model of a spec, with what the settings say of it.

    Args:
        window: where they do not say it.
    """
    own = own_of(spec, settings).given()
    key, base_url = own.pop("key", None), own.pop("base_url", settings.base_url)
    own.setdefault("window", window)
    try:
        return LM(spec, base_url=base_url, api_key=key and _key(key), **own)
    except ConfigError as error:
        where = f"{config.written(('models', spec))}: " if spec in settings.models else ""
        raise ConfigError(f"{where}{error}") from error


def as_lm(model: str | LM, settings: config.Settings) -> LM:
    """Return a model for what `model_of` returned."""
    return described(model, settings) if isinstance(model, str) else model


def own_of(spec: str, settings: config.Settings) -> config.ModelSettings:
    """What the settings say of one model."""
    return settings.models.get(spec, config.ModelSettings())


def _asked(spec: str, settings: config.Settings, *, quiet: bool) -> int | None:
    """The window that a local server has for a model, when the settings do not say it."""
    own = own_of(spec, settings)
    if own.window is not None:
        return None
    found = windows.window_of(spec, own.base_url or settings.base_url, load=True)
    if found.now is not None and found.now < windows.SMALL and not quiet:
        provider, _, model = spec.partition("/")
        more = windows.remedy(provider, model, found.most)
        click.echo(
            clean(
                f"{spec} takes {found.now:,} tokens as {provider} runs it, which is little"
                + (f"; for more: {more}" if more else "")
            ),
            err=True,
        )
    return found.now


def _key(name: str) -> str:
    found = config.secret(name, name)
    if found is None:
        raise ConfigError(f"key: {name!r} is neither an environment variable nor in {config.keys_file()}")
    return found
