"""How many calls are out at once. Time is a number here: the loop jumps to what happens next."""

from __future__ import annotations

import asyncio
import gc
import selectors
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recursor import models
from recursor.errors import ConfigError, ModelError
from recursor.models.bound import IN_FLIGHT, Bound
from recursor.models.gate import Bucket, Gate, Gated, Rates
from recursor.testing import ModelServer, ScriptedModel, check_model
from recursor.types import Message, Reply, Schema, Usage

T = TypeVar("T")
ASK = [Message("user", "Hello?")]


class _Jumping(selectors.SelectSelector):
    """Never waits: moves the clock of its loop to when it would have ended."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits for somebody else"
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock is a number."""

    def __init__(self) -> None:
        self.clock = _Jumping()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine in virtual time."""

    async def whole() -> T:
        return await main()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(whole())


class Endpoint:
    """A model that takes some time, and refuses what is too much at once."""

    name = "endpoint"

    def __init__(self, *, latency: float = 1.0, width: int | None = None, refusal: float = 0.0) -> None:
        self.latency = latency
        self.width = width
        self.refusal = refusal
        self.retry_after: float | None = None
        self.out = 0
        self.most = 0
        self.refused = 0
        self.sent: list[tuple[float, str]] = []

    async def query(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        text = messages[0].content
        self.sent.append((asyncio.get_running_loop().time(), text))
        if self.width is not None and self.out >= self.width:
            self.refused += 1
            await asyncio.sleep(self.refusal)
            raise ModelError("too much", 429, self.retry_after, retryable=True)
        self.out += 1
        self.most = max(self.most, self.out)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.out -= 1
        return Reply(text, Usage(len(text), 0, calls=1), 0.0)


async def ask(model: Any, text: str = "?") -> str:
    reply: Reply = await model.query([Message("user", text)])
    return reply.text


async def ask_all(model: Any, count: int) -> list[str]:
    return await asyncio.gather(*(ask(model, str(number)) for number in range(count)))


# One endpoint ------------------------------------------------------------------------------------


async def test_a_gated_model_keeps_the_contract() -> None:
    await check_model(Gated(ScriptedModel(lambda messages: "hello")))


@pytest.mark.parametrize("count", [1, 7, 100])
def test_no_more_calls_are_out_than_were_allowed_and_they_go_in_order(count: int) -> None:
    endpoint = Endpoint()
    answers = run(lambda: ask_all(Gated(endpoint, Rates(max_concurrency=7)), count))
    assert answers == [text for _, text in endpoint.sent] == [str(number) for number in range(count)]
    assert endpoint.most == min(count, 7)


def test_an_endpoint_without_limits_is_soon_used_as_widely_as_the_process_may() -> None:
    endpoint = Endpoint()

    async def main() -> float:
        await ask_all(Gated(endpoint), 10_000)
        return asyncio.get_running_loop().time()

    ideal = 10_000 / IN_FLIGHT.limit
    assert run(main) <= ideal + 6  # 64, 128 ... 2048: five round trips and the last one
    assert endpoint.most == IN_FLIGHT.limit


@pytest.mark.parametrize("width", [1, 5, 20, 50, 100, 700])
@pytest.mark.parametrize("refusal", [0.0, 0.3])
def test_the_width_of_an_endpoint_is_found_at_the_cost_of_few_refusals(width: int, refusal: float) -> None:
    endpoint = Endpoint(width=width, refusal=refusal)
    rounds = 40

    async def main() -> float:
        model = models.Retrying(Gated(endpoint), models.Retries(attempts=100))
        await ask_all(model, rounds * width)
        return asyncio.get_running_loop().time()

    assert run(main) < 1.25 * rounds
    assert endpoint.refused < max(130, 0.03 * len(endpoint.sent))


def test_the_width_shrinks_once_for_all_that_was_sent_before_it_did() -> None:
    async def main() -> None:
        gate = Gate(Rates(max_concurrency=100), asyncio.get_running_loop())
        tickets = [await gate.enter() for _ in range(100)]
        for ticket in tickets[:50]:
            gate.refused(ticket, None)
        assert gate.width == pytest.approx(50)
        for ticket in tickets[50:]:
            gate.answered(ticket)
        assert gate.width == pytest.approx(50)  # nor does it grow by them
        gate.answered(await gate.enter())
        gate.refused(await gate.enter(), None)
        assert gate.width == pytest.approx(40)  # by less, once it had been right

    run(main)


def test_an_endpoint_that_was_down_gets_its_width_back_by_doubling() -> None:
    endpoint = Endpoint(width=0)

    async def main() -> list[int]:
        gated = Gated(endpoint, Rates(max_concurrency=256))
        calls = [asyncio.ensure_future(ask(gated)) for _ in range(3_000)]
        await asyncio.sleep(30)
        endpoint.width, outs = None, []
        for _ in range(12):
            await asyncio.sleep(1)
            outs.append(endpoint.out)
        await asyncio.gather(*calls, return_exceptions=True)
        return outs

    outs = run(main)
    assert outs[0] == 1
    assert outs[-1] == 256


def test_what_the_endpoint_asks_for_shuts_the_gate_for_everybody() -> None:
    endpoint = Endpoint(width=3)
    endpoint.retry_after = 30.0

    async def main() -> None:
        gated = Gated(endpoint, Rates(max_concurrency=4))
        await asyncio.gather(*(ask(gated) for _ in range(8)), return_exceptions=True)

    run(main)
    times = [time for time, _ in endpoint.sent]
    assert times[:4] == [0.0] * 4
    assert all(time >= 30.0 for time in times[4:])
    assert len(times) == 8


def test_nobody_waits_for_an_endpoint_that_asks_for_an_hour() -> None:
    endpoint = Endpoint(width=0)
    endpoint.retry_after = 3600.0

    async def main() -> float:
        gated = Gated(endpoint)
        said = await asyncio.gather(*(ask(gated) for _ in range(500)), return_exceptions=True)
        assert all(isinstance(each, ModelError) and each.retry_after == 3600 for each in said)
        return asyncio.get_running_loop().time()

    assert run(main) < 1


def test_an_endpoint_that_is_down_is_not_hammered() -> None:
    endpoint = Endpoint(width=0)

    async def main() -> None:
        gated = Gated(endpoint)
        waiting = [asyncio.ensure_future(ask(gated)) for _ in range(10_000)]
        await asyncio.sleep(10)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(main)
    assert len(endpoint.sent) < 500


def test_models_of_one_endpoint_share_its_gate_and_models_with_rates_of_their_own_do_not() -> None:
    one, two, other, own = Endpoint(), Endpoint(), Endpoint(), Endpoint()

    async def main() -> None:
        shared = [Gated(each, endpoint="here") for each in (one, two)]
        bounded = [Gated(own, Rates(max_concurrency=2), endpoint="here") for _ in range(2)]
        calls = [ask(model) for model in (*shared, Gated(other), *bounded) for _ in range(100)]
        await asyncio.gather(*calls)

    run(main)
    first = [len([time for time, _ in each.sent if time == 0]) for each in (one, two, other, own)]
    assert first == [64, 0, 64, 2]


def test_one_key_is_told_from_another_without_being_kept() -> None:
    def gate(key: Any) -> Gate:
        async def main() -> Gate:
            model = models.resolve("openai/m", base_url="http://127.0.0.1:1/v1", api_key=key)
            with pytest.raises(ModelError):
                await ask(model)
            assert "secret" not in str(vars(model))
            gate = model._gate
            assert gate is not None
            return gate

        return runner.run(main())

    with asyncio.Runner() as runner:
        assert gate("secret one") is gate("secret one")
        assert len({gate("secret one"), gate("secret two"), gate(None)}) == 3


# Per minute --------------------------------------------------------------------------------------


@given(
    rate=st.floats(1, 100_000),
    amounts=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5_000)), min_size=1, max_size=40),
)
def test_in_no_window_more_is_taken_than_flows_in_and_a_burst(
    rate: float, amounts: list[tuple[float, float]]
) -> None:
    now, bucket = 0.0, Bucket(rate, 0.0)
    taken: list[tuple[float, float]] = []
    for pause, amount in amounts:
        now += pause
        wait = bucket.wait(amount, now)
        now += wait
        assert bucket.wait(amount, now) == 0.0
        bucket.take(amount)
        taken.append((now, amount))
    for first, (start, _) in enumerate(taken):
        total = 0.0
        for end, amount in taken[first:]:
            total += amount
            burst = max(1.0, rate / 60, *(each for _, each in taken))
            assert total <= burst + (end - start) * rate / 60 + 0.001 * burst


def test_requests_per_minute_are_spread_over_the_minute() -> None:
    endpoint = Endpoint()
    run(lambda: ask_all(Gated(endpoint, Rates(requests_per_minute=120)), 300))
    times = [time for time, _ in endpoint.sent]
    assert times[:2] == [0.0, 0.0]
    assert times[-1] == pytest.approx(149.0)
    for time in times:
        assert len([each for each in times if time <= each < time + 59.9]) <= 122


def test_tokens_per_minute_hold_although_nobody_knows_them_before() -> None:
    endpoint = Endpoint()  # a token per character, four times what is first assumed, and no output

    async def main() -> float:
        gated = Gated(endpoint, Rates(tokens_per_minute=6_000))
        await asyncio.gather(*(ask(gated, "x" * 500) for _ in range(100)))
        return asyncio.get_running_loop().time()

    took = run(main)
    assert took >= 0.85 * 500 * 100 / 100
    assert took <= 1.2 * 500 * 100 / 100


def test_usage_below_nothing_buys_no_tokens() -> None:
    class Giving(Endpoint):
        async def query(self, *args: Any, **options: Any) -> Reply:
            await super().query(*args, **options)
            return Reply("", Usage(-10_000, -5, calls=1), 0.0)

    async def main() -> float:
        gated = Gated(Giving(), Rates(tokens_per_minute=600))
        for _ in range(10):
            await ask(gated)
        return asyncio.get_running_loop().time()

    assert run(main) > 9 * 20


@pytest.mark.parametrize("retry_after", [None, 0.0, -5.0, float("nan")])
def test_an_endpoint_that_refuses_every_other_call_is_asked_slowly_and_answers_all(
    retry_after: float | None,
) -> None:
    class Alternating(Endpoint):
        async def query(self, *args: Any, **options: Any) -> Reply:
            self.refused += 1
            if self.refused % 2:
                raise ModelError("no", 429, retry_after, retryable=True)
            return await super().query(*args, **options)

    endpoint = Alternating()

    async def main() -> float:
        model = models.Retrying(Gated(endpoint), models.Retries(attempts=200, base=0.01))
        assert len(await ask_all(model, 200)) == 200
        return asyncio.get_running_loop().time()

    assert 250 < run(main) < 500
    assert endpoint.most < 10


def test_a_call_of_more_tokens_than_a_minute_has_goes_all_the_same() -> None:
    assert run(lambda: ask(Gated(Endpoint(), Rates(tokens_per_minute=60)), "x" * 10_000)) == "x" * 10_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_concurrency", 0),
        ("max_concurrency", 1.5),
        ("max_concurrency", True),
        ("requests_per_minute", 0),
        ("requests_per_minute", float("inf")),
        ("requests_per_minute", "9"),
        ("tokens_per_minute", -1),
        ("tokens_per_minute", float("nan")),
    ],
)
def test_a_rate_that_is_none_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be"):
        Rates(**{name: value})


# Leaving -----------------------------------------------------------------------------------------


class Crowd:
    """Calls that come to a gate one after another, and end as they were told to."""

    def __init__(self, gate: Gate, bound: Bound, most: int) -> None:
        self.gate = gate
        self.bound = bound
        self.most = most
        self.out = 0
        self.went: list[int] = []
        self.cancelled: set[int] = set()

    async def call(self, number: int, end: str, takes: int) -> None:
        ticket = await self.gate.enter(float(takes))
        self.went.append(number)
        self.out += 1
        try:
            assert self.out <= self.most
            assert self.out <= self.bound.out <= self.bound.limit
            await asyncio.sleep(takes)
        except asyncio.CancelledError:
            end = "cancelled"
            raise
        finally:
            self.out -= 1
            match end:
                case "answered":
                    self.gate.answered(ticket)
                    self.gate.correct(1.0 - takes)
                case "refused":
                    self.gate.refused(ticket, None)
                case "paused":
                    self.gate.refused(ticket, 2.0)
                case _:
                    self.gate.leave()

    async def come(self, calls: list[tuple[int, str, int, int | None]]) -> None:
        """Send them all, and wait until they are gone."""
        tasks = []
        for number, (pause, end, takes, patience) in enumerate(calls):
            await asyncio.sleep(pause)
            tasks.append(asyncio.ensure_future(self.call(number, end, takes)))
            if patience is not None:
                asyncio.get_running_loop().call_later(patience, self.cancel, number, tasks[-1])
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() or task.exception() is None for task in tasks)

    def cancel(self, number: int, task: asyncio.Future[None]) -> None:
        if task.cancel():
            self.cancelled.add(number)


@settings(max_examples=150, deadline=None)
@given(
    process=st.sampled_from([1, 2, 5, 100]),
    rates=st.builds(
        Rates,
        max_concurrency=st.none() | st.integers(1, 4),
        requests_per_minute=st.none() | st.floats(30, 600),
        tokens_per_minute=st.none() | st.floats(30, 600),
    ),
    calls=st.lists(
        st.tuples(
            st.integers(0, 3),  # seconds after the one before
            st.sampled_from(["answered", "refused", "paused", "failed"]),
            st.integers(0, 5),  # seconds that it takes
            st.none() | st.integers(0, 8),  # seconds until it is cancelled
        ),
        max_size=25,
    ),
)
def test_whatever_happens_to_calls_all_are_served_in_order_and_no_place_is_lost(
    process: int, rates: Rates, calls: list[tuple[int, str, int, int | None]]
) -> None:
    async def main() -> None:
        bound = Bound(process)
        gate = Gate(rates, asyncio.get_running_loop(), bound)
        crowd = Crowd(gate, bound, min(process, rates.max_concurrency or process))
        await crowd.come(calls)
        assert crowd.went == sorted(crowd.went) or process < 100
        assert {*crowd.went, *crowd.cancelled} == {*range(len(calls))}
        assert gate.idle
        assert bound.out == 0
        await asyncio.sleep(60)  # what rests and what pauses is over: the next one goes at once
        async with asyncio.timeout(0.001):
            await gate.enter()
        gate.leave()

    run(main)


def test_a_cancelled_call_gives_its_place_back_and_one_that_waits_takes_none() -> None:
    endpoint = Endpoint()

    async def main() -> None:
        gated = Gated(endpoint, Rates(max_concurrency=1))
        first, second, third = (asyncio.ensure_future(ask(gated, text)) for text in "abc")
        await asyncio.sleep(0.5)
        second.cancel()
        first.cancel()
        assert await third == "c"
        assert asyncio.get_running_loop().time() == 1.5

    run(main)
    assert [text for _, text in endpoint.sent] == ["a", "c"]


@pytest.mark.parametrize(
    "error", [ModelError("no"), ValueError("no"), SystemExit(), ModelError("", 503, 0, True)]
)
def test_a_call_that_fails_gives_its_place_back(error: BaseException) -> None:
    async def main() -> None:
        gated = Gated(ScriptedModel([error, "fine"]), Rates(max_concurrency=1))
        try:
            await ask(gated)
        except BaseException as raised:
            assert raised is error
        assert await ask(gated) == "fine"

    out = IN_FLIGHT.out
    run(main)
    assert IN_FLIGHT.out == out


# The whole process -------------------------------------------------------------------------------


@contextmanager
def room(limit: int) -> Iterator[None]:
    """Let this process have fewer calls out."""
    before = IN_FLIGHT.limit
    IN_FLIGHT.resize(limit)
    try:
        yield
    finally:
        IN_FLIGHT.resize(before)


def test_all_endpoints_of_a_process_share_one_bound() -> None:
    endpoints = [Endpoint(), Endpoint(), Endpoint()]

    async def main() -> float:
        await asyncio.gather(*(ask_all(Gated(each), 40) for each in endpoints))
        return asyncio.get_running_loop().time()

    with room(12):
        assert run(main) == 10.0
    assert sum(each.most for each in endpoints) <= 36


def test_the_bound_holds_over_the_event_loops_of_all_threads() -> None:
    bound, lock = Bound(5), threading.Lock()
    out, most, done = 0, 0, 0

    async def call(gate: Gate) -> None:
        nonlocal out, most, done
        await gate.enter()
        with lock:
            out += 1
            most = max(most, out)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            done += 1
        finally:
            with lock:
                out -= 1
            gate.leave()

    async def main() -> None:
        gate = Gate(Rates(), asyncio.get_running_loop(), bound)
        calls = [asyncio.ensure_future(call(gate)) for _ in range(300)]
        for each in calls[::7]:
            asyncio.get_running_loop().call_soon(each.cancel)
        await asyncio.gather(*calls, return_exceptions=True)

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert most <= 5
    assert done >= 4 * 250
    assert bound.out == 0


def test_places_in_the_process_are_given_in_the_order_in_which_calls_came() -> None:
    bound, went = Bound(2), []

    async def call(number: int) -> None:
        if not bound.take():
            await bound.wait()
        went.append(number)
        await asyncio.sleep(1)
        bound.leave()

    async def main() -> None:
        calls = [asyncio.ensure_future(call(number)) for number in range(20)]
        await asyncio.sleep(0.5)
        for number in (2, 3, 9):
            calls[number].cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    run(main)
    assert went == [number for number in range(20) if number not in (2, 3, 9)]
    assert bound.out == 0


def test_a_loop_that_was_closed_keeps_no_place_and_holds_up_nobody() -> None:
    bound = Bound(1)
    assert bound.take()
    closed = asyncio.new_event_loop()
    waiting = closed.create_task(bound.wait())
    closed.run_until_complete(asyncio.sleep(0))
    closed.close()

    async def main() -> None:
        asyncio.get_running_loop().call_soon(bound.leave)
        await asyncio.wait_for(bound.wait(), 5)
        bound.leave()

    asyncio.run(main())
    assert bound.out == 0
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # the point of this test


@pytest.mark.parametrize(
    "rates", [Rates(max_concurrency=3), Rates(requests_per_minute=60), Rates(tokens_per_minute=60)]
)
def test_calls_that_end_with_their_loop_end_in_silence_whoever_waits_behind_them(rates: Rates) -> None:
    before, loop = IN_FLIGHT.out, VirtualLoop()

    async def main() -> list[asyncio.Task[str]]:
        gated = Gated(Endpoint(latency=1_000), rates)
        tasks = [asyncio.ensure_future(ask(gated)) for _ in range(10)]
        await asyncio.sleep(0.1)
        return tasks

    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but it is pending!"
    tasks = loop.run_until_complete(main())
    assert IN_FLIGHT.out > before
    loop.close()
    tasks.clear()
    gc.collect()  # what it complains of would fail this test
    assert IN_FLIGHT.out == before


def test_the_limit_of_open_files_is_raised_as_far_as_calls_need_it_and_bounds_them_where_it_cannot() -> None:
    code = """
import resource, sys
soft, hard = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from recursor.errors import ConfigError
from recursor.models import IN_FLIGHT
print(IN_FLIGHT.limit, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
try:
    IN_FLIGHT.resize(3_000)
except ConfigError as error:
    print(error)
print(IN_FLIGHT.limit)
"""

    def said(soft: int, hard: int) -> list[str]:
        command = [sys.executable, "-c", code, str(soft), str(hard)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    assert said(256, 8_192) == ["2048 3072", "3000"]
    first, second, third = said(256, 1_024)
    assert (first, third) == ("768 1024", "768")
    assert "3,000 calls at once" in second
    assert "768" in second


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "9"])
def test_a_bound_that_is_none_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        IN_FLIGHT.resize(limit)


# Over HTTP ---------------------------------------------------------------------------------------


def test_two_thousand_calls_of_a_server_that_takes_fifty_succeed_with_few_refusals() -> None:
    async def main() -> None:
        model = models.Retrying(models.resolve("openai/m", base_url=server.url))
        replies = await asyncio.gather(*(model.query(ASK) for _ in range(2_000)))
        assert len(replies) == 2_000
        await models.close()

    async def slowly(messages: object) -> str:
        await asyncio.sleep(0.02)
        return "fine"

    with ModelServer(slowly, max_concurrency=50) as server:
        asyncio.run(main())
    assert server.most_at_once <= 50
    assert server.refused < 500  # some 20 on an idle machine
