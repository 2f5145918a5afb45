"""`recursor config init`: a first settings file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from recursor import config, models
from recursor.cli import complete, endpoints, options
from recursor.cli.text import clean
from recursor.config import changing
from recursor.config.tree import Key
from recursor.errors import ConfigError
from recursor.models.presets import PRESETS, split

MOST_LISTED = 20


@click.command("init", short_help="Write a first settings file.")
@click.option(
    "--model",
    "-m",
    metavar="SPEC",
    help="The root LM; with it, nothing is asked.",
    shell_complete=complete.models,
)
@click.option("--sub-model", metavar="SPEC", help="Answers sub-calls.", shell_complete=complete.models)
@click.option("--base-url", metavar="URL", help="Endpoint of both models.")
@click.option("--max-cost", type=float, metavar="USD", help="Bound of each run.")
@click.option("--sandbox", metavar="NAME", help="Where code runs.")
@click.option(
    "--force", is_flag=True, help="Replace the file; the old one is kept beside it, as config.toml.old."
)
@options.FILE
def command(*, file: Path | None, force: bool, **given: Any) -> None:
    """Write a settings file in which every setting is explained; on a terminal, ask for the models first."""
    if options.profile():
        raise click.UsageError("--profile is for `config set`: this writes a file without profiles")
    path = file or config.config_file()
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already: change it with `recursor config set`, or pass --force")
    asked = given["model"] is None and sys.stdin.isatty() and sys.stderr.isatty()
    if asked:
        given |= {name: value for name, value in _asked(given["base_url"]).items() if given[name] is None}
    for spec in (given["model"], given["sub_model"]):
        if spec is not None:
            split(spec, given["base_url"])
    values: dict[Key, Any] = {
        (("limits", name) if name == "max_cost" else (name,)): value
        for name, value in given.items()
        if value is not None
    }
    kept = changing.begin(path, values, force=force)
    click.echo(clean(f"wrote {path}" + (f"; the old one is {kept}" if kept else "")), err=True)
    _say_keys([spec for spec in (given["model"], given["sub_model"]) if spec])


def _asked(base_url: str | None) -> dict[str, Any]:
    """Ask which models, and how much money. All questions go to stderr."""
    found = list(_found())
    for number, (spec, why) in enumerate(found, 1):
        click.echo(clean(f"  {number}  {spec:<40}  {why}"), err=True)
    if not found:
        click.echo("No model server answers here, and no key is set.", err=True)
    root = _model(
        "Root LM: a number, or a spec such as openai/gpt-5; - for none",
        found,
        base_url,
        "1" if found else "-",
    )
    if root is None:
        return {}
    sub = _model("Sub-LM, for the many small calls; - for the same", found, base_url, "-")
    return {"model": root, "sub_model": sub, "max_cost": _money([root, sub or root], base_url)}


def _found() -> Iterator[tuple[str, str]]:
    for endpoint in endpoints.detect_endpoints():
        for name in endpoint.models[:MOST_LISTED]:
            yield f"{endpoint.provider}/{name}", f"at {endpoint.base_url}"
    keys = endpoints.detect_keys()
    for provider, spec in endpoints.SUGGESTED.items():
        if provider in keys:
            yield spec, keys[provider]


def _model(question: str, found: list[tuple[str, str]], base_url: str | None, default: str) -> str | None:
    while True:
        said = str(click.prompt(question, default=default, err=True)).strip()
        if said == "-":
            return None
        if said.isdecimal() and 0 < int(said) <= len(found):
            return found[int(said) - 1][0]
        try:
            split(said, base_url)
        except ConfigError as error:
            click.echo(clean(f"  {error}"), err=True)
        else:
            return said


def _money(specs: list[str], base_url: str | None) -> float | None:
    """Ask for a bound where there is something to pay, and its price is known."""
    costs = False
    for spec in specs:
        preset, model = split(spec, base_url)
        if not models.known(preset.price_list, model):
            return None
        costs |= not preset.local
    if not costs:
        return None
    said = click.prompt(
        "Most that one run may cost, in US dollars; 0 for no bound",
        default=2.0,
        type=click.FloatRange(0),
        err=True,
    )
    return said or None


def _say_keys(specs: list[str]) -> None:
    try:
        keys = endpoints.detect_keys()
    except ConfigError as error:
        click.echo(clean(str(error)), err=True)
        return
    for provider in dict.fromkeys(spec.partition("/")[0] for spec in specs):
        if provider in PRESETS and PRESETS[provider].needs_key and provider not in keys:
            click.echo(f"there is no key of {provider} yet: recursor keys set {provider}", err=True)
