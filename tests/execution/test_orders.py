"""An order's life: each piece of news by hand, and a random exchange that loses, repeats and shuffles what it says."""

from __future__ import annotations

from decimal import Decimal
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tasks.execution.orders import (
    ENDED,
    Absence,
    Acked,
    Execution,
    Leg,
    Lost,
    LotSize,
    NotFound,
    Order,
    OrderError,
    Refused,
    Reported,
    Status,
    link_id,
    next_leg,
)

D = Decimal
LEG = Leg("Buy", D("0.4"), False)
LOT = LotSize(step=D("0.001"), least=D("0.001"), most=D(100), least_notional=D(5))
FIRST, SECOND = (Execution(name, D("0.2"), D(100), D("0.011")) for name in ("e1", "e2"))


def sent(at_ms: int = 1_000) -> Order:
    return Order(link_id="dsc-1", leg=LEG).submitting(at_ms)


def told(status: str, executed: str = "0", at_ms: int = 1, why: str = "") -> Reported:
    return Reported("x1", status, D(executed), at_ms, why)


def after(order: Order, *news: object) -> Order:
    for one in news:
        order = order.after(one)  # type: ignore[arg-type]
    return order


# --- each piece of news -----------------------------------------------------------------------------------------------


def test_market_order_that_fills_in_two_parts_is_settled_with_the_second() -> None:
    order = after(sent(), Acked("x1"), told("New"), FIRST, told("PartiallyFilled", "0.2", 2))
    assert (order.status, order.order_id, order.is_settled) == (Status.PARTIAL, "x1", False)
    order = after(order, SECOND)
    assert (order.status, order.change, order.is_settled) == (Status.FILLED, D("0.4"), True)


@pytest.mark.parametrize("news", list(permutations([Acked("x1"), FIRST, SECOND, told("Filled", "0.4", 3)])))
def test_order_of_the_news_does_not_matter(news: tuple[object, ...]) -> None:
    order = after(sent(), *news)
    assert (order.status, order.known, order.is_settled) == (Status.FILLED, D("0.4"), True)


def test_everything_twice_counts_once() -> None:
    once = [Acked("x1"), told("New"), FIRST, told("PartiallyFilled", "0.2", 2), SECOND, told("Filled", "0.4", 3)]
    twice = [one for one in once for _ in range(2)]
    assert after(sent(), *twice) == after(sent(), *once)


def test_end_is_not_settled_before_its_executions_are_known() -> None:
    order = after(sent(), told("Filled", "0.4", 3))
    assert (order.status, order.is_settled) == (Status.FILLED, False)
    assert after(order, FIRST, SECOND).is_settled


def test_order_that_only_reduces_ends_with_the_position_that_was_left() -> None:
    closing = Order(link_id="dsc-1", leg=LEG._replace(reduces=True)).submitting(1_000)
    order = after(closing, Acked("x1"), told("Filled", "0.2", 3), FIRST)
    assert (order.status, order.change, order.is_settled) == (Status.FILLED, D("0.2"), True)
    assert not after(closing, Acked("x1"), told("Filled", "0", 3)).is_settled
    assert not after(sent(), Acked("x1"), told("Filled", "0.2", 3), FIRST).is_settled


def test_refusal_is_a_rejection_and_a_lost_answer_is_not() -> None:
    assert after(sent(), Refused("110007: no money")).status is Status.REJECTED
    assert after(sent(), Lost("no answer in time")).status is Status.UNKNOWN


def test_what_the_stream_has_told_of_outlives_a_lost_or_contrary_answer() -> None:
    for answer in (Lost("reset"), Refused("110072: duplicate")):
        order = after(sent(), told("New"), FIRST, answer)
        assert (order.status, order.known) == (Status.PARTIAL, D("0.2"))


def test_acknowledged_order_may_still_be_rejected_or_cancelled() -> None:
    rejected = after(sent(), Acked("x1"), told("Rejected", why="EC_NoImmediateQtyToFill"))
    assert (rejected.status, rejected.why, rejected.is_settled) == (Status.REJECTED, "EC_NoImmediateQtyToFill", True)
    cancelled = after(sent(), Acked("x1"), told("Cancelled", why="EC_NoImmediateQtyToFill"))
    assert (cancelled.status, cancelled.is_settled) == (Status.CANCELLED, True)


def test_cancelled_order_keeps_what_it_filled_and_learns_of_more() -> None:
    order = after(sent(), told("Cancelled", "0.2", 3))
    assert (order.status, order.is_settled) == (Status.CANCELLED, False)
    assert (after(order, FIRST).is_settled, after(order, FIRST).change) == (True, D("0.2"))


def test_rejected_order_that_was_filled_after_all_is_told_as_it_is() -> None:
    order = after(sent(), Refused("10001: odd"), FIRST)
    assert (order.status, order.known) == (Status.CANCELLED, D("0.2"))


def test_second_end_after_a_late_cancel_changes_nothing() -> None:
    filled = after(sent(), FIRST, SECOND, told("Filled", "0.4", 3))
    assert after(filled, told("Cancelled", "0.4", 4, "EC_OrigClOrdIDDoesNotExist")).status is Status.FILLED


def test_older_message_says_nothing_new() -> None:
    order = after(sent(), told("PartiallyFilled", "0.2", 5), told("New", "0", 3))
    assert (order.status, order.executed) == (Status.PARTIAL, D("0.2"))


def test_word_that_nobody_knows_leaves_the_status() -> None:
    assert after(sent(), Acked("x1"), told("Dreaming", "0", 2)).status is Status.ACKED
    assert after(sent(), Acked("x1"), told("Dreaming", "0.2", 2)).status is Status.PARTIAL


def test_more_filled_than_ordered_is_an_error() -> None:
    with pytest.raises(OrderError, match=r"dsc-1 of 0\.4 is said to have filled 0\.5"):
        after(sent(), told("Filled", "0.5", 2))
    with pytest.raises(OrderError, match=r"dsc-1 of 0\.4 has executions of 0\.6"):
        after(sent(), FIRST, SECOND, FIRST._replace(exec_id="e3"))
    with pytest.raises(OrderError, match="execution e1 of order dsc-1 has two contents"):
        after(sent(), FIRST, FIRST._replace(price=D(101)))


# --- sent at most once ------------------------------------------------------------------------------------------------


@pytest.mark.promise(15)
@pytest.mark.parametrize(
    "news",
    [[], [Acked("x1")], [Refused("110007")], [Lost("reset")], [FIRST], [told("Filled", "0.4")], [told("Cancelled")]],
)
def test_order_that_was_sent_is_not_sent_again(news: list[object]) -> None:
    with pytest.raises(OrderError, match="must not be sent again"):
        after(sent(), *news).submitting(2_000)


@pytest.mark.promise(15)
def test_only_an_order_that_nobody_knows_for_long_enough_is_sent_again() -> None:
    lost, absence = after(sent(1_000), Lost("reset")), Absence(rounds=3, after_ms=5_000)
    early = after(lost, *[NotFound(3_000)] * 10)
    assert early.status is Status.UNKNOWN
    seldom = after(lost, NotFound(9_000), NotFound(9_500))
    assert seldom.status is Status.UNKNOWN
    gone = lost
    for at_ms in (3_000, 5_000, 6_001):
        gone = gone.after(NotFound(at_ms), absence)
    assert gone.status is Status.ABSENT
    again = gone.submitting(7_000)
    assert (again.status, again.link_id, again.misses) == (Status.SUBMITTING, "dsc-1", 0)
    assert after(gone, told("Filled", "0.4")).status is Status.FILLED  # if it is there after all, that is what counts


def test_question_that_finds_it_ends_the_doubt() -> None:
    assert after(sent(), Lost("reset"), NotFound(2_000), told("New")).status is Status.ACKED


def test_id_is_the_same_after_a_restart_and_another_for_any_other_order() -> None:
    given = ("btc", "linear-BTCUSDT-5", 1_767_225_600_000, "open", 0)
    others = [("eth", *given[1:]), (*given[:2], 0, *given[3:]), (*given[:3], "close", 0), (*given[:4], 1)]
    assert link_id(*given) == link_id(*given)
    assert len({link_id(*one) for one in (given, *others)}) == 5  # type: ignore[arg-type]
    assert len(link_id(*given)) == 36
    assert set(link_id(*given)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")


class Exchange(RuleBasedStateMachine):
    """An exchange that takes an id once, and a wire that delays, loses, repeats and shuffles what both sides say."""

    WINDOW_MS, LAG_MS = 5_000, 500

    def __init__(self) -> None:
        super().__init__()
        self.order = Order(link_id="dsc-1", leg=LEG)
        self.now_ms = 1_000
        self.under_way: list[int] = []  # when each request that has not arrived was sent
        self.taken_ms = 0  # when the exchange took the order; 0 for not
        self.refused = False
        self.truth = "New"
        self.fills: list[Execution] = []
        self.said: list[object] = []
        self.posts = 0
        self.most = D(0)

    def tell(self, *news: object) -> None:
        self.said += news

    def report(self) -> Reported:
        return told(self.truth, str(sum((one.quantity for one in self.fills), D(0))), self.now_ms)

    @property
    def open(self) -> bool:
        return self.taken_ms > 0 and self.truth in ("New", "PartiallyFilled")

    @precondition(lambda self: self.order.status in (Status.INTENT, Status.ABSENT))
    @rule()
    def send(self) -> None:
        assert not self.taken_ms, "what the exchange has was called absent"
        assert not self.under_way, "a request that may still be taken was called absent"
        self.order = self.order.submitting(self.now_ms)
        self.under_way.append(self.now_ms)
        self.posts += 1

    @precondition(lambda self: self.under_way)
    @rule(answered=st.booleans(), takes=st.booleans())
    def arrive(self, answered: bool, takes: bool) -> None:
        self.under_way.pop()
        if takes:
            self.taken_ms = self.now_ms
            self.tell(self.report())
        self.order = self.order.after(
            Lost("no answer") if not answered else Acked("x1") if takes else Refused("110007: no")
        )
        self.refused = not takes and answered

    @precondition(lambda self: self.under_way)
    @rule()
    def time_out(self) -> None:
        self.order = self.order.after(Lost("no answer in time"))

    @rule(ms=st.integers(1, 4_000))
    def wait(self, ms: int) -> None:
        self.now_ms += ms
        self.under_way = [at_ms for at_ms in self.under_way if self.now_ms - at_ms <= self.WINDOW_MS]

    @precondition(lambda self: self.open)
    @rule(coins=st.integers(1, 4))
    def fill(self, coins: int) -> None:
        left = LEG.quantity - sum((one.quantity for one in self.fills), D(0))
        part = Execution(f"e{len(self.fills)}", min(D(coins) / 10, left), D(100), D("0.01"))
        self.fills.append(part)
        self.truth = "Filled" if part.quantity == left else "PartiallyFilled"
        self.now_ms += 1
        self.tell(part, self.report())

    @precondition(lambda self: self.open)
    @rule()
    def cancel(self) -> None:
        self.truth = "Cancelled"
        self.now_ms += 1
        self.tell(self.report())

    @precondition(lambda self: self.said)
    @rule(data=st.data(), again=st.booleans())
    def hear(self, data: st.DataObject, again: bool) -> None:
        place = data.draw(st.integers(0, len(self.said) - 1))
        self.order = self.order.after(self.said[place])  # type: ignore[arg-type]
        if not again:
            self.said.pop(place)

    @precondition(lambda self: self.said)
    @rule()
    def lose_what_was_said(self) -> None:
        self.said.clear()

    @precondition(lambda self: self.order.status not in (Status.INTENT, Status.ABSENT))
    @rule()
    def ask(self) -> None:
        if self.taken_ms and self.now_ms - self.taken_ms >= self.LAG_MS:
            for news in (self.report(), *self.fills):
                self.order = self.order.after(news)
        elif not self.taken_ms:
            self.order = self.order.after(NotFound(self.now_ms), Absence(rounds=3, after_ms=self.WINDOW_MS))

    @invariant()
    def what_is_known_is_true_and_never_shrinks(self) -> None:
        assert {one.exec_id for one in self.order.fills} <= {one.exec_id for one in self.fills}
        assert self.order.executed >= self.most
        self.most = self.order.executed
        if self.order.status is Status.REJECTED:
            assert self.refused
        if self.order.is_settled and self.order.status is not Status.REJECTED:
            assert self.order.known == sum((one.quantity for one in self.fills), D(0))

    def teardown(self) -> None:
        if self.taken_ms:
            for news in (self.report(), *self.fills):
                self.order = self.order.after(news)
            assert self.order.known == sum((one.quantity for one in self.fills), D(0))
            if self.truth in ("Filled", "Cancelled"):
                assert self.order.is_settled
                assert self.order.status in ENDED


TestExchange = pytest.mark.promise(15)(Exchange.TestCase)
TestExchange.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


# --- legs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "wanted", "leg"),
    [
        ("0", "0.4", Leg("Buy", D("0.4"), False)),
        ("0", "-0.4", Leg("Sell", D("0.4"), False)),
        ("0.4", "0", Leg("Sell", D("0.4"), True)),
        ("0.4", "-0.3", Leg("Sell", D("0.4"), True)),
        ("-0.4", "0.3", Leg("Buy", D("0.4"), True)),
        ("172.1", "24.4", Leg("Sell", D(100), True)),
        ("0.1477", "0.4", Leg("Buy", D("0.252"), False)),
        ("0.4", "0.4", None),
        ("0.4005", "0.4", None),
        ("0.0004", "0", None),
        ("-0.0004", "0.4", Leg("Buy", D("0.400"), False)),
        ("0", "0.01", None),
        ("0", "0.0009", None),
    ],
)
def test_next_leg(held: str, wanted: str, leg: Leg | None) -> None:
    assert next_leg(D(held), D(wanted), LOT, D(100)) == leg


COINS = st.integers(-5_000_000, 5_000_000).map(lambda number: D(number) / 10_000)


@given(held=COINS, wanted=COINS, share=st.lists(st.integers(1, 10), min_size=30, max_size=30))
def test_legs_lead_to_what_is_wanted_and_never_beyond(held: D, wanted: D, share: list[int]) -> None:
    closing = True
    for part in share:
        leg = next_leg(held, wanted, LOT, D(100))
        if leg is None:
            break
        assert leg.quantity % LOT.step == 0
        assert leg.quantity >= LOT.least
        assert closing or not leg.reduces  # first what is too much, then what lacks
        closing = leg.reduces
        filled = LOT.floor(leg.quantity * part / 10) or LOT.step  # an order may be filled in part
        before, held = held, held + (filled if leg.side == "Buy" else -filled)
        if leg.reduces:
            assert abs(held) < abs(before)
            assert held * before >= 0
        else:
            assert abs(wanted - held) < abs(wanted - before)
    else:
        return  # not done after so many parts
    assert abs(wanted - held) < max(LOT.least, LOT.least_notional / 100) + LOT.step
