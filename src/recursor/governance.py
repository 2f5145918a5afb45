"""Asks a policy, and makes of what it says events and errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from recursor.context.remote import PERMIT
from recursor.errors import ConfigError, IsolationUnavailable, SubcallError
from recursor.policy import Kind, Policy, Request
from recursor.protocols import Model
from recursor.tools import approved
from recursor.types import Decided, Isolation

UNKNOWN = "unknown"
"""The host of a model that does not say where it is."""


async def decided(policy: Policy, request: Request, turn: int) -> tuple[Decided, bool]:
    """Return what a policy, or whoever it asks, says to a request, and whether somebody was asked."""
    decision, rule = policy.decide(request.kind, request.name)
    allowed = decision == "allow"
    if decision == "ask":
        assert policy.approve is not None
        allowed = await approved(policy.approve, request)
        rule += ", approved" if allowed else ", refused"
    event = Decided(request.run_id, turn, request.kind, request.name, allowed, rule, time.time())
    return event, decision == "ask"


def ask_about_hosts(policy: Policy | None) -> None:
    """Have the policy asked, from here on in this task, before a context is fetched from a host."""
    loop = asyncio.get_running_loop()

    def permit(host: str) -> Decided | None:
        if policy is None or not policy.is_about("host"):
            return None
        asked = decided(policy, Request("host", host, "", 0), 0)
        event, _ = asyncio.run_coroutine_threadsafe(asked, loop).result()
        if not event.allowed:
            raise ConfigError(f"nothing may be fetched from {host}: the policy says no ({event.rule})")
        return event

    PERMIT.set(permit)


def about_contexts(run_id: str, sources: Iterable[Any]) -> list[Decided]:
    """What was decided about the hosts that contexts of a run were fetched from."""
    decisions = [each for source in sources for each in getattr(source, "decisions", ())]
    return [replace(each, run_id=run_id) for each in decisions]


async def places(
    policy: Policy | None, run_id: str, models: Iterable[Model], mounts: Mapping[str, str]
) -> list[Decided]:
    """Decide about every endpoint that a run may call, and every folder that its code may read, where the policy
    is about such."""
    if policy is None:
        return []
    hosts = dict.fromkeys(getattr(model, "host", None) or UNKNOWN for model in models)
    wanted: list[tuple[Kind, str]] = [("host", host) for host in hosts]
    wanted += [("mount", folder) for folder in mounts.values()]
    found = []
    for kind, name in wanted:
        if not policy.is_about(kind):
            continue
        try:
            found.append((await decided(policy, Request(kind, name, run_id, 0), 0))[0])
        except SubcallError as failed:
            found.append(Decided(run_id, 0, kind, name, False, str(failed), time.time()))
    return found


def refuse(decisions: Iterable[Decided]) -> None:
    """Raise ConfigError when anything was not allowed."""
    for each in decisions:
        if not each.allowed:
            what = "the endpoint of a model at" if each.kind == "host" else "a mount of"
            raise ConfigError(f"{what} {each.name} is not allowed: the policy says no ({each.rule})")


def demand(policy: Policy | None, isolation: Isolation) -> None:
    """Raise IsolationUnavailable when a REPL has less than a policy demands."""
    lacking = policy.unmet(isolation) if policy is not None else ""
    if lacking:
        raise IsolationUnavailable(
            f"the sandbox {isolation.sandbox!r} has less here than the policy demands, and nothing was run: {lacking}"
        )


def check_prices(models: Iterable[Model], *, strict: bool) -> None:
    """Refuse a bound of money that could not be kept.

    Args:
        strict: whether a model must say that its price is known.

    Raises:
        ConfigError: there is no price, or, if strict, a model does not say.
    """
    for model in models:
        if not getattr(model, "priced", not strict):
            raise ConfigError(
                f"limits.max_cost needs a known price, and there is none for {model.name!r}: "
                "use max_tokens instead, or say the price: LM(..., price=Price(...)), or "
                f'[models."{model.name}"] price in the settings'
            )
