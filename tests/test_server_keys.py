"""Keys of clients, what each may use, and what an operator is told."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recursor import RLM
from recursor.errors import ConfigError
from recursor.server import keys
from recursor.server.app import Server, Settings
from recursor.testing import ScriptedModel
from recursor.types import Message, Reply, Usage
from serving import HELLO, by_turn, serving

ANSWER = "```python\nFINAL('It is 42.')\n```"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def made(path: Path, name: str = "alice", bounds: str = "") -> str:
    """A new key, with bounds."""
    key = keys.add(path, name)
    with path.open("a") as file:
        file.write(bounds + "\n")
    return key


def costing(dollars: float) -> Any:
    def says(_: Sequence[Message]) -> Reply:
        return Reply(ANSWER, Usage(10, 5, calls=1), dollars, "scripted", "stop")

    return says


# Who may ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{}, bearer(""), bearer("rk-wrong"), {"Authorization": "Basic x"}, bearer("\u00e9")]
)
async def test_without_a_key_nothing_is_told(tmp_path: Path, headers: dict[str, str]) -> None:
    made(tmp_path / "keys.toml")
    async with serving(by_turn(ANSWER), Settings(key_file=tmp_path / "keys.toml")) as client:
        status, reply, _ = await client.post(HELLO, headers=headers)
        others = [(await client.get(path, headers))[0] for path in ("/v1/models", "/metrics", "/nowhere")]
        alive = [(await client.get(path))[0] for path in ("/healthz", "/readyz")]
    assert (status, reply["error"]["code"]) == (401, "invalid_api_key")
    assert others == [401] * 3
    assert alive == [200, 200]


async def test_a_key_opens_and_is_kept_by_nobody(tmp_path: Path) -> None:
    file, store = tmp_path / "keys.toml", tmp_path / "runs.db"
    key = made(file)
    async with serving(by_turn(ANSWER), Settings(key_file=file), store=store) as client:
        status, reply, _ = await client.post(HELLO, headers=bearer(key))
    assert (status, reply["choices"][0]["message"]["content"]) == (200, "It is 42.")
    assert os.stat(file).st_mode & 0o077 == 0
    assert not [name for name in os.listdir(tmp_path) if key.encode() in (tmp_path / name).read_bytes()]


async def test_keys_are_taken_in_and_out_while_the_server_runs(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    alice = made(file, "alice")
    async with serving(by_turn(ANSWER), Settings(key_file=file)) as client:
        bob = made(file, "bob")
        assert (await client.get("/v1/models", bearer(bob)))[0] == 200
        rest = "[bob]" + file.read_text().split("[bob]")[1]
        file.write_text(rest)
        assert (await client.get("/v1/models", bearer(alice)))[0] == 401
        assert (await client.get("/v1/models", bearer(bob)))[0] == 200
        file.write_text("[bob")
        assert (await client.get("/v1/models", bearer(bob)))[0] == 401


def test_a_name_gets_one_key(tmp_path: Path) -> None:
    keys.add(tmp_path / "keys.toml", "alice")
    with pytest.raises(ConfigError, match="already"):
        keys.add(tmp_path / "keys.toml", "alice")
    with pytest.raises(ConfigError, match="no name"):
        keys.add(tmp_path / "keys.toml", 'x"]\nkey')


@pytest.mark.parametrize(
    "text",
    ["", "alice = 1", "[alice]", '[alice]\nkey = "rk-plain"', f'[a]\nkey = "sha256:{"0" * 64}"\nmax_run = 1',
     f'[a]\nkey = "sha256:{"0" * 64}"\nmax_cost = 0.0', f'[a]\nkey = "sha256:{"0" * 64}"\nmax_cost = nan',
     f'[a]\nkey = "sha256:{"0" * 64}"\n[b]\nkey = "sha256:{"0" * 64}"', "\x00"],
)  # fmt: skip
def test_a_key_file_that_is_wrong_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        Server({}, Settings(key_file=file))


def test_the_command_makes_a_key_and_prints_it_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    command = [sys.executable, "-m", "recursor", "serve", "--key-file", str(file), "--add-key", "alice"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    client = keys.Keys(file).client(key)
    assert client is not None
    assert client.name == "alice"
    assert key not in done.stderr + file.read_text()


# What each may use ----------------------------------------------------------------------------


async def test_requests_a_minute_are_bounded(tmp_path: Path) -> None:
    key = made(tmp_path / "keys.toml", bounds="requests_per_minute = 2")
    other = made(tmp_path / "keys.toml", "bob")
    async with serving(by_turn(ANSWER), Settings(key_file=tmp_path / "keys.toml")) as client:
        found = [await client.post(HELLO, headers=bearer(key)) for _ in range(3)]
        bob, _, _ = await client.post(HELLO, headers=bearer(other))
    assert [status for status, _, _ in found] == [200, 200, 429]
    assert found[2][1]["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(found[2][2]["Retry-After"]) <= 30
    assert bob == 200


async def test_runs_of_a_key_at_once_are_bounded(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def says(_: Sequence[Message]) -> str:
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        return ANSWER

    file = tmp_path / "keys.toml"
    key = made(file, bounds="max_runs = 1\nmetrics = true")
    async with serving(says, Settings(key_file=file)) as client:
        first = asyncio.ensure_future(client.post(HELLO, headers=bearer(key)))
        while "recursor_runs_in_flight 1" not in (await client.get("/metrics", bearer(key)))[1]:
            await asyncio.sleep(0.005)
        status, reply, _ = await client.post(HELLO, headers=bearer(key))
        go_on.set()
        assert (await first)[0] == 200
        assert (await client.post(HELLO, headers=bearer(key)))[0] == 200
    assert (status, reply["error"]["code"]) == (429, "busy")


@pytest.mark.parametrize("bound", ["max_cost", "max_cost_per_day"])
async def test_money_is_counted_and_outlives_the_server(tmp_path: Path, bound: str) -> None:
    file = tmp_path / "keys.toml"
    key = made(file, bounds=f"{bound} = 1.0")
    for spent in (0, 1):
        async with serving(costing(0.5), Settings(key_file=file)) as client:
            assert (await client.post(HELLO, headers=bearer(key)))[0] == 200, spent
    async with serving(costing(0.5), Settings(key_file=file)) as client:
        status, reply, headers = await client.post(HELLO, headers=bearer(key))
    assert (status, reply["error"]["code"]) == (402, "insufficient_quota")
    assert ("Retry-After" in headers) == (bound == "max_cost_per_day")


async def test_runs_at_once_do_not_overshoot_a_budget_together(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = made(file, bounds="max_cost = 1.0")
    async with serving(costing(0.3), Settings(key_file=file)) as client:

        async def ask() -> int:
            status, _, _ = await client.post(HELLO, headers={**bearer(key), "X-Recursor-Max-Cost": "0.4"})
            return status

        found = await asyncio.gather(*(ask() for _ in range(12)))
        while await ask() != 402:
            assert len(found) < 20
            found.append(200)
    assert set(found) <= {200, 429, 402}
    answered = found.count(200)
    assert (
        3 <= answered <= 4
    )  # a fourth may begin with the tenth of a dollar that is left, and ends at its first call


async def test_a_run_may_not_spend_more_than_is_left(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = made(file, bounds="max_cost = 1.0")
    looks = Reply("```python\nprint(1)\n```", Usage(10, 5, calls=1), 0.4, "scripted", "stop")
    async with serving(lambda _: looks, Settings(key_file=file)) as client:
        _, reply, _ = await client.post(HELLO, headers=bearer(key))
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["prompt_tokens"] <= 40


def test_a_budget_without_a_price_is_refused(tmp_path: Path) -> None:
    class Unpriced(ScriptedModel):
        priced = False

    made(tmp_path / "keys.toml", bounds="max_cost = 1.0")
    with pytest.raises(ConfigError, match="known price"):
        Server({"recursor": RLM(Unpriced([]))}, Settings(key_file=tmp_path / "keys.toml"))


# What an operator is told ---------------------------------------------------------------------


async def test_metrics_count_runs_tokens_and_money_by_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    alice, scraper = made(file, "alice"), made(file, "scraper", "metrics = true")
    async with serving(costing(0.25), Settings(key_file=file)) as client:
        await client.post(HELLO, headers=bearer(alice))
        await client.post(HELLO, headers=bearer(alice))
        await client.post(b"{", headers=bearer(alice))
        refused, _ = await client.get("/metrics", bearer(alice))
        status, text = await client.get("/metrics", bearer(scraper))
    assert (refused, status) == (403, 200)
    lines = text.splitlines()
    for line in (
        'recursor_runs_total{key="alice",outcome="answered"} 2',
        'recursor_tokens_total{key="alice",kind="input"} 20',
        'recursor_tokens_total{key="alice",kind="output"} 10',
        'recursor_cost_dollars_total{key="alice"} 0.5',
        'recursor_requests_refused_total{status="400"} 1',
        'recursor_run_duration_seconds_bucket{key="alice",le="+Inf"} 2',
        'recursor_run_duration_seconds_count{key="alice"} 2',
        "recursor_runs_in_flight 0",
        "recursor_runs_held 0",
    ):
        assert line in lines
    buckets = [int(line.rpartition(" ")[2]) for line in lines if "_bucket" in line]
    assert buckets == sorted(buckets)
    named = {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {
        re.sub("_(bucket|sum|count)$", "", name) if "duration" in name else name for name in named
    } == typed
    assert json.dumps(alice) not in text
