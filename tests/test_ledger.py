"""Limits and the ledger tree: what is reserved, what is counted, what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recursor import ConfigError, Limits
from recursor.errors import LimitExceeded
from recursor.estimates import DOLLARS, TOKENS, Call
from recursor.ledger import Ledger, Reservation
from recursor.types import Reply, StopReason, Usage

KINDS = st.sampled_from(
    [("a", "root", 0), ("a", "sub", 0), ("b", "sub", 0), ("a", "root", 1), ("b", "sub", 1)]
)
REPLIES = st.builds(
    lambda tokens, cost, failed: (
        Reply("", Usage(calls=1), None) if failed else Reply("x", Usage(tokens, 1, calls=1), cost)
    ),
    st.integers(0, 1000), st.floats(0, 1), st.booleans(),
)  # fmt: skip
STEPS = st.lists(st.tuples(KINDS, st.integers(0, 500), REPLIES, st.integers(0, 10_000)), max_size=80)


def ledger(clock: Callable[[], float] = lambda: 0.0, **bounds: Any) -> Ledger:
    return Ledger(Limits(**bounds), clock)


def call(model: str = "m", purpose: Any = "sub", depth: int = 0, size: int = 10, price: Any = None) -> Call:
    return Call(model, purpose, depth, size, price)


def reply(tokens: int = 10, cost: float | None = 0.0) -> Reply:
    return Reply("x", Usage(tokens, 0, calls=1), cost)


def spend(to: Ledger, asked: Call, answered: Reply) -> None:
    reserved = to.admit(asked)
    assert isinstance(reserved, Reservation)
    reserved.settle(answered)


@given(STEPS, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_whatever_happens_parents_hold_their_children_and_nothing_stays_reserved(
    steps: list[Any], order: random.Random
) -> None:
    parent = ledger(max_tokens=5_000, max_cost=5.0, max_calls=60, max_subcalls_in_flight=8)
    child = parent.child(Limits(max_tokens=3_000))
    out: list[tuple[Reservation, Reply]] = []
    for (model, purpose, depth), size, answered, where in steps:
        by = child if depth else parent
        try:
            found = by.admit(Call(model, purpose, depth, size))
        except LimitExceeded:
            found = by
        if isinstance(found, Reservation):
            out.append((found, answered))
        if out and where % 3 == 0:
            reserved, told = out.pop(where % len(out))
            reserved.settle(told)
        assert parent.in_flight == len(out) >= child.in_flight >= 0
    order.shuffle(out)
    for reserved, told in out:
        reserved.settle(told)
    assert parent.in_flight == child.in_flight == 0
    assert parent.usage.total_tokens >= child.usage.total_tokens
    assert parent.calls >= child.calls
    assert parent.left(TOKENS) == pytest.approx(
        5_000 - parent.usage.total_tokens - parent._assumed[TOKENS]  # nothing is reserved any more
    )


@given(
    st.lists(st.tuples(st.integers(0, 900), st.floats(0, 1)), max_size=30), st.randoms(use_true_random=False)
)
def test_the_order_of_settling_never_matters_to_what_is_counted(
    answers: list[tuple[int, float]], order: random.Random
) -> None:
    def counted(answered: list[tuple[int, float]]) -> tuple[Usage, float | None]:
        book = ledger()
        reserved = [book.child(Limits()).admit(call(depth=1)) for _ in answered]
        for found, (tokens, cost) in zip(reserved, answered, strict=True):
            assert isinstance(found, Reservation)
            found.settle(reply(tokens, cost))
        return book.usage, book.cost

    shuffled = list(answers)
    order.shuffle(shuffled)
    one, other = counted(answers), counted(shuffled)
    assert one[0] == other[0]
    assert one[1] == pytest.approx(other[1])


@given(st.integers(1, 200), st.floats(0.01, 20), st.floats(0.01, 1), st.integers(0, 2**30))
@settings(max_examples=200, deadline=None)
def test_calls_at_once_never_overshoot_when_the_dearest_comes_first(
    count: int, bound: float, dearest: float, seed: int
) -> None:
    """With estimates that hold, what is spent stays within the bound, whatever is out at once."""
    chance = random.Random(seed)
    book = ledger(max_cost=bound)
    out: list[Reservation] = []
    costs = [dearest, *(chance.uniform(0, dearest) for _ in range(count))]
    for cost in costs:
        while True:
            try:
                found = book.admit(call())
            except LimitExceeded:
                found = None
                break
            if isinstance(found, Reservation):
                out.append(found)
                break
            out.pop(chance.randrange(len(out))).settle(reply(10, cost))
        if found is None:
            break
        if len(out) == 1 and not book.usage.calls:
            out.pop().settle(reply(10, dearest))
    for found in out:
        found.settle(reply(10, chance.uniform(0, dearest)))
    assert book.cost is not None
    assert book.cost <= max(bound, dearest) + 1e-9


def test_a_call_of_unknown_price_goes_ahead_alone() -> None:
    book = ledger(max_cost=1.0)
    first = book.admit(call())
    assert isinstance(first, Reservation)
    assert book.admit(call()) is book
    first.settle(reply(10, 0.01))
    assert isinstance(book.admit(call()), Reservation)


def test_a_known_price_lets_first_calls_go_at_once() -> None:
    book = ledger(max_cost=1.0)
    asked = call(price=lambda usage: usage.total_tokens * 1e-5)
    assert isinstance(book.admit(asked), Reservation)
    assert isinstance(book.admit(asked), Reservation)


def test_a_longer_prompt_is_taken_to_cost_more() -> None:
    book = ledger(max_tokens=10_000)
    spend(book, call(size=1_000), reply(500))
    with pytest.raises(LimitExceeded, match=r"9,500 tokens are left.*this call may take 50,000 tokens"):
        book.admit(call(size=100_000))


def test_sub_calls_leave_the_root_what_its_last_reply_needs() -> None:
    book = ledger(max_tokens=1_000)
    spend(book, call(purpose="root"), reply(300))
    spend(book, call(), reply(200))
    with pytest.raises(LimitExceeded, match="beside what the root LM's last reply needs") as refused:
        book.admit(call())
    assert refused.value.reason is StopReason.MAX_TOKENS
    assert book.last_reply is StopReason.MAX_TOKENS
    assert isinstance(book.admit(call(purpose="root")), Reservation)


def test_a_child_near_a_bound_of_its_parents_is_on_its_last_reply_too() -> None:
    parent = ledger(max_tokens=1_000)
    spend(parent, call(purpose="root"), reply(200))
    child = parent.child(Limits())
    spend(child, call(purpose="root", depth=1), reply(100))
    told = [child.last_reply]
    spend(child, call(depth=1), reply(250))
    assert [*told, parent.last_reply, child.last_reply] == [None, None, StopReason.MAX_TOKENS]
    counted = ledger(max_calls=4)
    spend(counted, call(purpose="root"), reply())
    below = counted.child(Limits())
    spend(below, call(purpose="root", depth=1), reply())
    assert [counted.last_reply, below.last_reply] == [None, StopReason.MAX_CALLS]


def test_the_last_of_max_calls_is_the_roots() -> None:
    book = ledger(max_calls=3)
    spend(book, call(purpose="root"), reply())
    spend(book, call(), reply())
    with pytest.raises(LimitExceeded, match="kept for the root LM's last reply"):
        book.admit(call())
    assert book.last_reply is StopReason.MAX_CALLS
    spend(book, call(purpose="root"), reply())
    with pytest.raises(LimitExceeded, match="all 3 model calls are made"):
        book.check()


def test_a_batch_larger_than_the_calls_left_is_refused_whole_with_the_number_left() -> None:
    book = ledger(max_calls=10)
    spend(book, call(purpose="root"), reply())
    book.refuse_batch(8, call())
    with pytest.raises(LimitExceeded, match="9 calls were asked for and 8 are left; none was sent"):
        book.refuse_batch(9, call())


def test_a_batch_larger_than_the_money_left_is_refused_by_the_average_cost() -> None:
    book = ledger(max_cost=1.0)
    spend(book, call(), reply(10, 0.01))
    spend(book, call(), reply(10, 0.03))
    book.refuse_batch(48, call())
    with pytest.raises(LimitExceeded, match=r"at \$0.0200 each, \$0.9600 pay for about 48"):
        book.refuse_batch(49, call())


def test_sub_calls_wait_at_their_width_and_root_calls_do_not() -> None:
    book = ledger(max_subcalls_in_flight=2)
    child = book.child(Limits())
    out = [book.admit(call()), child.admit(call(purpose="root", depth=1))]
    assert all(isinstance(found, Reservation) for found in out)
    assert child.admit(call(depth=1)) is book
    assert isinstance(book.admit(call(purpose="root")), Reservation)


def test_a_child_draws_from_its_parent() -> None:
    parent = ledger(max_tokens=100)
    child = parent.child(Limits(max_tokens=1_000_000))
    spend(child, call(depth=1), reply(100))
    with pytest.raises(LimitExceeded, match="100 tokens of 100 tokens are used"):
        child.begin_turn()


def test_a_call_that_was_cut_off_counts_as_the_dearest_of_its_kind_against_the_bound() -> None:
    book = ledger(max_cost=1.0)
    spend(book, call(), reply(10, 0.3))
    spend(book, call(), Reply("", Usage(calls=1), None))
    assert book.left(DOLLARS) == pytest.approx(0.4)
    assert book.cost is None


def test_code_leaves_time_for_the_root_to_finish() -> None:
    now = [0.0]
    book = ledger(lambda: now[0], max_time=100.0)
    found = book.admit(call(purpose="root"))
    assert isinstance(found, Reservation)
    found.settle(reply(), seconds=8.0)
    now[0] = 50.0
    assert book.time_left() == 50.0
    assert book.cell_time() == 38.0


@pytest.mark.parametrize("name", ["max_calls", "max_subcalls_in_flight", "max_errors", "max_tokens"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", float("nan")])
def test_bounds_that_are_no_positive_whole_number_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"Limits.{name} must be a whole number of at least 1"):
        Limits(**{name: value})


def test_changed_limits_name_what_is_unknown() -> None:
    assert Limits(max_turns=5).with_changes({"max_cost": 0.5}) == Limits(max_turns=5, max_cost=0.5)
    with pytest.raises(ConfigError, match="there is no limit 'max_money', only max_turns"):
        Limits().with_changes({"max_money": 1})


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_a_pool_holds_all_trees_that_share_it_and_each_tree_counts_its_own(steps: list[Any]) -> None:
    pool = ledger(max_cost=3.0)
    trees = [Ledger(Limits(max_tokens=20_000), lambda: 0.0, pool=pool) for _ in range(3)]
    children = [tree.child(Limits()) for tree in trees]
    for (model, purpose, depth), size, answered, where in steps:
        by = (children if depth else trees)[where % 3]
        try:
            found = by.admit(Call(model, purpose, depth, size))
        except LimitExceeded:
            continue
        if isinstance(found, Reservation):
            found.settle(answered)
    assert pool.calls == sum(tree.calls for tree in trees)
    assert pool.usage.total_tokens == sum(tree.usage.total_tokens for tree in trees)
    assert all(child.top is tree for child, tree in zip(children, trees, strict=True))
    assert pool.in_flight == 0


def test_what_was_paid_before_counts_in_the_tree_and_not_in_the_pool() -> None:
    pool = ledger(max_cost=1.0)
    tree = Ledger(Limits(max_cost=1.0), lambda: 0.0, pool=pool)
    tree.count(call(), reply(cost=0.4))
    tree.child(Limits()).count_run(Usage(5, 5, calls=2), 0.3)
    assert tree.cost == pytest.approx(0.7)
    assert pool.cost == 0.0


def test_calls_of_other_trees_that_are_out_do_not_tell_a_root_lm_to_finish() -> None:
    pool = ledger(max_cost=1.0)
    one, two = (Ledger(Limits(), lambda: 0.0, pool=pool) for _ in range(2))
    spend(one, call(purpose="root"), reply(cost=0.01))
    one.admit(call(purpose="root"))  # which stands for a hundred times as much
    two.begin_turn()
    assert two.last_reply is None
    pool.count_run(Usage(calls=1), 0.97)
    assert one.last_reply is StopReason.MAX_COST
