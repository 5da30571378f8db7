"""A session computed again from its journal: the backtest's decisions and fills on its candles, and every cause.

Two questions are asked, and both must be answered; a third, what each cause made of the equity, is `attribution.py`'s.

    Is each step what the core says?   From the session's own position and ledger, bar by bar: features, probabilities,
                                       decision and open are computed again. What differs needs a cause on record, and
                                       the cause must hold; else it is `unexplained`.
    Is the whole what a backtest says? `backtest_comparison.py`: so many decisions and fills are equal. One that was not
                                       traded makes later ones differ too, and all of them have its cause.

An open that orders carried out is no fill of the core's: `order_replay.py` keeps its books again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import starmap

import numpy as np

from storage.schema import CANDLE_COLUMNS, Candles, FloatArray, Instrument, Market
from tasks.champion.serving import ServedModel
from tasks.execution.decision import decide
from tasks.execution.paper import Ledger, Opened, Quote
from tasks.journal.journal_reader import JournalReader
from tasks.journal.journal_rows import OF_DOUBT, UNKNOWN_CHAMPION, BarOpen, Cause, Decision
from tasks.live.account import held_back, nothing_new
from tasks.live.account_record import AccountRecord, Batch, PredictHistory
from tasks.live.attribution import Attribution, attribute
from tasks.live.backtest_comparison import compare_backtest
from tasks.live.order_replay import OrderBooks
from tasks.strategy.live_tick import PROBABILITIES, forecast_vol, share_taken

FEATURE_BOUND, PROBABILITY_BOUND = 1e-9, 1e-5
"""How far features and probabilities of the session may lie from the batch's."""

_CENT = 1e-6  # USDT; ledgers are sums of the same numbers in the same order


@dataclass(frozen=True)
class Difference:
    """Something that a backtest would have done otherwise.

    Attributes:
        start_ms: Bar.
        what: candle, features, probabilities, volatility, share, decision, fill or funding.
        cause: A `Cause`, with orders also a code of `limits.py`; empty where nobody knows.
        said: What the journal says, and what came out.
    """

    start_ms: int
    what: str
    cause: str
    said: str


@dataclass(kw_only=True)
class Replayed:
    """What came of replaying one market.

    Attributes:
        by_orders: Whether orders carried them out; else they were filled on paper.
        bars: Decisions in the journal.
        missing: Bars that lie between its decisions and are not there.
        equal_decisions: Decisions that a backtest over the same candles takes too.
        equal_fills: Fills that it has too: same bar, side, price on the tick and quantity.
        feature_diff: Largest difference of a feature or vol from the batch's.
        probability_diff: Largest difference of a probability.
        comparison: The account's equity beside the backtest's, by cause; None without a decision.
    """

    by_orders: bool = False
    bars: int = 0
    fills: int = 0
    missing: int = 0
    equal_decisions: int = 0
    equal_fills: int = 0
    backtest_fills: int = 0
    feature_diff: float = 0.0
    probability_diff: float = 0.0
    differences: list[Difference] = field(default_factory=list)
    comparison: Attribution | None = None

    def add(self, start_ms: int, what: str, cause: str, said: str) -> None:
        """Note a difference."""
        self.differences.append(Difference(start_ms, what, cause, said))

    @property
    def unexplained(self) -> int:
        """How many differences have no cause."""
        return sum(not one.cause for one in self.differences)

    @property
    def causes(self) -> dict[str, int]:
        """How often each cause was found."""
        found = [one.cause for one in self.differences if one.cause]
        return {cause: found.count(cause) for cause in sorted(set(found))}


def replay(
    reader: JournalReader,
    market: Market,
    models: Mapping[str, ServedModel],
    instrument: Instrument,
    predict: PredictHistory,
    *,
    account: str = "",
    reference: Candles | None = None,
    funding: list[tuple[int, float]] | None = None,
) -> Replayed:
    """Compute what an account did in a market again, and compare.

    Args:
        models: Every version that decided, by name.
        account: Which account; empty for the session's own.
        reference: The same candles as the exchange shows them today; None: not compared.
        funding: Stamps and rates as the exchange shows them today; None: as the journal has them.
    """
    account = account or market.slug
    record = AccountRecord.of(reader, market, account, instrument, funding)
    decided = [one.start_ms for one in reader.decisions(account)]
    fills = sum(bar.opened.fill is not None for bar in record.opens)
    result = Replayed(by_orders=record.by_orders, bars=len(decided), fills=fills)
    revised = _compare_candles(record.candles, reference, result)
    for start_ms in sorted(set(record.origins) - set(decided)):
        if record.origins[start_ms] != "warm-up":
            result.add(start_ms, "decision", "", "the journal lacks the decision of a candle")
    for start_ms in decided:
        if start_ms not in record.origins:
            result.add(start_ms, "candle", "", "the journal lacks the candle of a decision")
    if account == market.slug:
        _compare_takeovers(reader, record, result)
    if record.decisions:
        batch = Batch(record, models, predict)
        _check_steps(record, batch, result)
        result.equal_decisions, result.equal_fills, result.backtest_fills = compare_backtest(record, batch)
        as_today = None if revised is None else Batch(record, models, predict, revised)
        result.comparison = attribute(record, batch, as_today)
    return result


def _compare_takeovers(reader: JournalReader, record: AccountRecord, result: Replayed) -> None:
    """Note each decision of another version than the journal says had taken over by then."""
    left, deciding = reader.takeovers(record.market.slug)[::-1], None
    for one in record.decisions:
        while left and left[-1][0] <= one.start_ms:
            _, deciding, _ = left.pop()
        if deciding != one.version:
            said = "the journal lacks who had" if deciding is None else f"{deciding or 'no version'} had"
            result.add(one.start_ms, "decision", "", f"by {one.version or 'no version'}, {said} taken over")


def _compare_candles(candles: Candles, reference: Candles | None, result: Replayed) -> Candles | None:
    """Note every candle that the exchange shows otherwise today, and return all as it does; None for no difference."""
    if reference is None:
        return None
    matrix, rows = candles.matrix(), np.flatnonzero(np.isin(candles.start_ms, reference.start_ms))
    other = reference[np.isin(reference.start_ms, candles.start_ms)]
    differs = (matrix[rows] != other.matrix()).any(axis=1)
    for ms in candles.start_ms[rows[differs]].tolist():
        result.add(ms, "candle", Cause.REVISED, "the exchange shows another candle today")
    if not differs.any():
        return None
    columns = {name: getattr(candles, name).copy() for name in CANDLE_COLUMNS}
    for name, column in columns.items():
        column[rows] = getattr(other, name)
    return Candles(start_ms=candles.start_ms, **columns)


def _check_steps(record: AccountRecord, batch: Batch, result: Replayed) -> None:
    """Compute each open and each decision again from the account's own ledger before it."""
    ledger, before, booked_ms = Ledger(record.capital), None, -1
    books = OrderBooks(record, batch) if record.by_orders else None
    for one in record.steps():
        if isinstance(one, BarOpen):
            if books is None:
                _open_again(record, batch, one, ledger, before, result)
            else:
                result.differences += starmap(Difference, books.row(one, ledger, before))
            ledger = one.opened.ledger  # so that one difference is counted once
            if books is None or record.begins_bar(one):
                booked_ms = record.market.floor(one.start_ms)
            continue
        if booked_ms != one.start_ms:
            result.add(one.start_ms, "fill", "", "the journal lacks what the account did at the open")
        elif (one.position, one.bars_held) != (ledger.side, ledger.bars_held):
            said = f"held {one.position} for {one.bars_held}, was {ledger.side} for {ledger.bars_held}"
            result.add(one.start_ms, "decision", "", said)
        _decide_again(record, batch, one, result)
        if before is not None:
            result.missing += (one.start_ms - before.start_ms) // record.market.interval_ms - 1
        before = one
    if books is not None:
        result.differences += starmap(Difference, books.rest())


def _open_again(
    record: AccountRecord, batch: Batch, bar: BarOpen, ledger: Ledger, before: Decision | None, result: Replayed
) -> None:
    """Say what the journal has otherwise than the core at an open."""
    rules = batch.rules_after(before)
    met = record.broker(ledger, bar.wanted, bar.quote, bar.rate, rules)
    if not record.begins_bar(bar):
        holds = (bar.wanted, bar.cause, bar.rate) == (0, Cause.STOP, 0.0) and _same(met, bar.opened)
        result.add(bar.start_ms, "fill", Cause.STOP if holds else "", f"booked {bar.opened} amid the bar")
        return
    decided = before.wanted if before is not None else 0
    if bar.wanted != decided:
        was_seen = bar.cause == Cause.STALE and np.isfinite(bar.late_ms)  # too late to open, and not to close
        left = nothing_new(ledger.side, decided) if was_seen else ledger.side
        held = bar.wanted == left and record.proofs(bar).get(bar.cause, False)
        result.add(bar.start_ms, "fill", bar.cause if held else "", f"traded to {bar.wanted}, decided was {decided}")
    first, is_closed = Quote(batch.first_price(bar)), bar.start_ms in batch.row
    rate = record.rates.get(bar.start_ms, 0.0) if ledger.side and is_closed else bar.rate
    if _same(record.broker(ledger, bar.wanted, first, rate, rules), bar.opened):
        return
    # What the session met at the open explains a difference only if exactly this comes out of it.
    if not _same(met, bar.opened):
        result.add(bar.start_ms, "fill", "", f"booked {bar.opened}, comes out as {met}")
    elif bar.rate != rate:
        result.add(bar.start_ms, "funding", Cause.FUNDING, f"rate {bar.rate}, the exchange's history says {rate}")
    else:
        result.add(bar.start_ms, "fill", Cause.PRICE, f"met {bar.quote}, the candle opened at {first.first}")


def _same(one: Opened, other: Opened) -> bool:
    if (one.fill is None) != (other.fill is None):
        return False
    numbers = np.array([(*x.ledger, x.funding, *(x.fill or ())) for x in (one, other)])
    return bool((np.abs(numbers[0] - numbers[1]) <= _CENT).all())


def _decide_again(record: AccountRecord, batch: Batch, one: Decision, result: Replayed) -> None:
    if one.version:
        _compute_again(batch, one, result)
    elif one.target != 0:
        result.add(one.start_ms, "decision", "", f"target {one.target} without a version")
    if one.wanted != one.target:
        before = [kind for at_ms, kind in record.notes if at_ms < one.start_ms]
        clock = [kind for kind in before if kind.startswith("clock")]
        doubt = [kind for kind in before if kind in OF_DOUBT]
        true: dict[str, bool] = {
            Cause.DEADLINE: one.late_ms > record.deadline_ms,
            Cause.MISSED_BARS: record.origins[one.start_ms] == "rest",
            Cause.CLOCK: clock[-1:] == ["clock off"],
            Cause.CHAMPION: doubt[-1:] == [UNKNOWN_CHAMPION],
            **{
                cause: (one.start_ms, f"{cause} at close") in record.notes
                for cause in (Cause.HALTED, Cause.UNKNOWN, Cause.STREAM)
            },
        }
        holds = one.wanted == held_back(one.cause, one.position, one.target) and true.get(one.cause, False)
        result.add(one.start_ms, "decision", record.cause(one) if holds else "", f"target {one.target} was not traded")


def _compute_again(batch: Batch, one: Decision, result: Replayed) -> None:
    """Compute features, probabilities and target of a decision again."""
    row = batch.row[one.start_ms]
    probabilities, vol = batch.probabilities[one.version][row], float(batch.vol[row])
    again = np.concatenate([batch.values[row], [vol]])
    apart = _apart(one.values[: len(again)], again)
    result.feature_diff = max(result.feature_diff, apart)
    if apart > FEATURE_BOUND:
        result.add(one.start_ms, "features", "", f"differ by {apart:.1e}")
    apart = _apart(one.values[PROBABILITIES], probabilities)
    result.probability_diff = max(result.probability_diff, apart)
    if apart > PROBABILITY_BOUND:
        result.add(one.start_ms, "probabilities", "", f"differ by {apart:.1e}")
    p_sell, p_hold, p_buy = probabilities.tolist()
    forecast, share = batch.forecast[one.start_ms], batch.share[one.start_ms]
    journalled = forecast_vol(one.values)
    if journalled != forecast and not np.isnan([journalled, forecast]).all() and len(one.values) > PROBABILITIES.stop:
        # A journal of before volatility was forecast has none.
        result.add(one.start_ms, "volatility", "", f"forecast was {journalled:.6g}, comes out as {forecast:.6g}")
    if share_taken(one.values) != share:
        result.add(one.start_ms, "share", "", f"{share_taken(one.values):.6g} of a position, comes out as {share:.6g}")
    target = decide(p_sell, p_hold, p_buy, vol, forecast, one.position, one.bars_held, batch.params[one.version])
    if target != one.target:
        result.add(one.start_ms, "decision", "", f"target {one.target}, comes out as {target}")


def _apart(one: FloatArray, other: FloatArray) -> float:
    if one.shape != other.shape or not np.array_equal(np.isnan(one), np.isnan(other)):
        return float("inf")
    return float(np.abs(np.nan_to_num(one - other)).max())
