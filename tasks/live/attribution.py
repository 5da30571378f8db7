"""An account beside a backtest of the same candles, and what each cause made of the difference.

The bars are traded again and again, each time with one more cause let in: first as a backtest trades them, last as the
session did. What a cause makes of the equity is the step that it adds, the trades that come out otherwise later on
included, so the parts add up to the whole difference. Where two causes meet in one trade, the later one of the list has
what they make of it together. What is left when all are in is `unexplained`, and 0 where the journal is true.

Where orders traded, a cause that is let in makes the account hold what the session held from that row on, and the last
of them all, slippage, makes the ledger out of the executions themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from tasks.execution.accounting import RULES, fill
from tasks.execution.decision import decide
from tasks.execution.orders import ZERO
from tasks.execution.paper import Ledger, Quote
from tasks.journal.journal_rows import BarOpen, Decision
from tasks.live.account import held_back
from tasks.live.booking import book, lot_size
from tasks.live.told import Batch, Told

CAUSES = (
    "rounding",  # to the exchange's steps, ticks and minima
    "revised",  # candles that the exchange shows otherwise today
    "gap",  # a backtest closes at the first open behind one; a session holds until features are missing
    "funding",  # rates of the stream in place of the history's
    "late",
    "deadline",
    "missed bars",
    "clock",
    "champion",  # nobody knew who it was
    "stale",
    "restart",
    "stop",
    "price",  # what the first price and the book were, in place of the candle's open
)
"""In the order in which they are let in."""

_LAST = (
    "price",
    "fee",  # charged otherwise than the version was judged at
    "slippage",  # everything as the exchange booked it
)
"""With orders: in place of the last of `CAUSES`, and behind what `order_replay.py` names."""

UNEXPLAINED = "unexplained"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An account beside a backtest of the same candles; both are marked at the last close, nothing is sold for it.

    Attributes:
        bars: Decisions.
        capital: USDT at the start, of both.
        paper: What the account is worth, USDT.
        backtest: What the backtest's is worth.
        parts: Cause -> what it made of the difference, basis points of the capital; they add up to all of it.
    """

    bars: int
    capital: float
    paper: float
    backtest: float
    parts: Mapping[str, float]

    @property
    def difference_bp(self) -> float:
        """The account's equity less the backtest's, basis points of the capital."""
        return 1e4 * (self.paper - self.backtest) / self.capital


def attribute(told: Told, batch: Batch, reference: Batch | None = None) -> Comparison:
    """Trade an account's bars as a backtest does, then with one cause after another.

    Args:
        told: What the journal says.
        batch: Of its candles.
        reference: Of the same bars as the exchange shows them today; None where they are the same.
    """
    there = _there(told, reference is not None)
    named = sorted(there - {"", *CAUSES, *_LAST})
    causes = (*CAUSES[:-1], *named, *_LAST) if told.by_orders else CAUSES
    backtest = before = _traded(told, reference or batch, ())
    parts: dict[str, float] = {}
    for number, cause in enumerate(causes, 1):
        if cause not in there:
            continue
        let_in = causes[:number]
        after = _traded(told, batch if reference is None or "revised" in let_in else reference, let_in)
        parts[cause], before = 1e4 * (after - before) / told.capital, after
    ledger = told.opens[-1].opened.ledger if told.opens else Ledger(told.capital)
    paper = ledger.equity(_last_close(told, batch))
    parts[UNEXPLAINED] = 1e4 * (paper - before) / told.capital
    return Comparison(bars=len(told.decisions), capital=told.capital, paper=paper, backtest=backtest, parts=parts)


def _there(told: Told, is_revised: bool) -> set[str]:
    """Return the causes that this journal has anything of."""
    found = {"rounding", "price"} | {told.cause(one) for one in told.decisions} | {bar.cause for bar in told.opens}
    starts = np.array([one.start_ms for one in told.decisions])
    if (np.diff(starts) > told.market.interval_ms).any():
        found.add("gap")
    if told.by_orders:
        found |= {"fee", "slippage"} | {_moved_by(told, bar) for bar in told.opens} - {""}
    if any(bar.opened.funding for bar in told.opens if told.by_orders) or any(
        bar.rate != told.rates.get(bar.start_ms, 0.0) for bar in told.opens
    ):
        found.add("funding")
    return found | ({"revised"} if is_revised else set())


def _traded(told: Told, batch: Batch, causes: Collection[str]) -> float:
    """Return what an account is worth at the last close that trades by the core, but where one of `causes` holds."""
    if "slippage" in causes:
        return _booked(told).equity(_last_close(told, batch))
    ledger, wanted, before = Ledger(told.capital), 0, None
    paid_by = batch.rules if "rounding" in causes else batch.unstepped
    told_weight = 0  # what the journal's own account held
    for step in told.steps():
        if isinstance(step, Decision):
            wanted, before = _decided(told, batch, step, ledger, causes), step
            continue
        rules = paid_by[before.start_ms] if before is not None else np.zeros(RULES)
        if told.by_orders:
            ledger = _ordered(told, batch, step, ledger, wanted, before, causes, rules)
        else:
            ledger = _opened(told, batch, step, ledger, wanted, before, bool(told_weight), causes, rules)
        told_weight = step.opened.ledger.weight
    return ledger.equity(_last_close(told, batch))


def _decided(told: Told, batch: Batch, one: Decision, ledger: Ledger, causes: Collection[str]) -> int:
    """Return what is wanted after a close, from the position that this account has."""
    target, row = 0, batch.row[one.start_ms]
    if one.version:
        p_sell, p_hold, p_buy = batch.probabilities[one.version][row].tolist()
        vol, foreseen, params = float(batch.vol[row]), batch.foreseen[one.start_ms], batch.params[one.version]
        target = decide(p_sell, p_hold, p_buy, vol, foreseen, ledger.weight, ledger.bars_held, params)
    if (cause := told.cause(one)) not in causes:
        return target
    return held_back(cause, ledger.weight, target)


def _opened(
    told: Told,
    batch: Batch,
    bar: BarOpen,
    ledger: Ledger,
    wanted: int,
    before: Decision | None,
    was_held: bool,
    causes: Collection[str],
    rules: np.ndarray,
) -> Ledger:
    """Return the account after an open; amid a bar nothing opens but the end of a session that ends flat."""
    if told.market.floor(bar.start_ms) != bar.start_ms:
        return told.broker(ledger, 0, bar.quote, 0.0, rules).ledger if "stop" in causes else ledger
    row = batch.row.get(bar.start_ms)  # None where the bar has not closed: its first price is all that is known
    first = Quote(float(batch.candles.open[row])) if row is not None else Quote(bar.quote.first)
    quote = bar.quote if "price" in causes else first
    rate = told.rates.get(bar.start_ms, 0.0) if row is not None else bar.rate
    if "funding" in causes and was_held:
        rate = bar.rate
    if bar.cause and bar.cause in causes:
        wanted = 0 if was_held and not bar.wanted else ledger.weight  # of a flip that is late, one half is traded
    elif "gap" not in causes and before is not None and bar.start_ms > before.start_ms + told.market.interval_ms:
        wanted = 0
    return told.broker(ledger, wanted, quote, rate, rules).ledger


def _ordered(
    told: Told,
    batch: Batch,
    bar: BarOpen,
    ledger: Ledger,
    wanted: int,
    before: Decision | None,
    causes: Collection[str],
    rules: np.ndarray,
) -> Ledger:
    """Return the account after a row of a session with orders: as decided, or as booked where its cause is let in."""
    opens = told.market.floor(bar.start_ms) == bar.start_ms
    row = batch.row.get(bar.start_ms)
    first = Quote(float(batch.candles.open[row])) if row is not None else Quote(bar.quote.first)
    quote = bar.quote if "price" in causes or not opens else first
    rate = told.rates.get(bar.start_ms, 0.0) if opens and "funding" not in causes else 0.0
    if "funding" in causes:
        ledger = ledger._replace(cash=ledger.cash - bar.opened.funding)
    trades = [one for one in told.booked.get(bar.start_ms, ()) if one.moves]
    if "fee" in causes and (worth := sum(one.worth for one in trades)):
        rules = rules.copy()
        rules[2] = float(sum(one.fill.fee for one in trades) / worth)
    if _moved_by(told, bar) in causes:
        after, (_, bid, ask) = bar.opened.ledger, quote
        commission, slippage, tick = rules[2], rules[3], rules[5]
        cash, *_ = fill(ledger.cash, ledger.quantity, after.quantity, quote.first, commission, slippage, tick, bid, ask)
        return Ledger(cash, after.quantity, after.weight, after.bars_held)
    if not opens:
        return ledger
    if "gap" not in causes and before is not None and bar.start_ms > before.start_ms + told.market.interval_ms:
        wanted = 0
    return told.broker(ledger, wanted, quote, rate, rules).ledger


def _moved_by(told: Told, bar: BarOpen) -> str:
    """Return why a row holds something else than was decided; empty where it does not."""
    moved = [one for one in told.booked.get(bar.start_ms, ()) if one.moves]
    bars = {told.bar_of(one) for one in moved}
    movers = [told.mover(one) or "foreign" for one in moved if told.bar_of(one) is None]
    return next(iter(movers), bar.cause or ("unknown" if bars - {bar.start_ms} else ""))


def _booked(told: Told) -> Ledger:
    """Return the ledger that all executions in rows make, from the capital on."""
    ledger, held, least = Ledger(told.capital), ZERO, lot_size(told.instrument).least
    for bar in told.opens:
        executions = told.booked.get(bar.start_ms, [])
        held += sum((one.change for one in executions), ZERO)
        ledger = book(ledger, held, executions, bar.quote.first, least, opens=True).ledger
    return ledger


def _last_close(told: Told, batch: Batch) -> float:
    return float(batch.candles.close[batch.row[told.decisions[-1].start_ms]])
