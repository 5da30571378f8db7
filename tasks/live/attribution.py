"""An account beside a backtest of the same candles, and what each cause made of the difference.

The bars are traded again and again, each time with one more cause let in: first as a backtest trades them, last as the
session did. What a cause makes of the equity is the step that it adds, the trades that come out otherwise later on
included, so the parts add up to the whole difference. Where two causes meet in one trade, the later one of the list has
what they make of it together. What is left when all are in is `unexplained`, and 0 where the journal is true.

Where orders traded, a cause that is let in makes the account hold what the session held from that row on, and the last
of them all, slippage, makes the ledger out of the executions themselves.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from storage.schema import FloatArray
from tasks.execution.accounting import COMMISSION, RULES, SLIPPAGE, TICK, fill
from tasks.execution.decision import decide
from tasks.execution.orders import ZERO
from tasks.execution.paper import Ledger, Quote
from tasks.journal.journal_rows import BarOpen, Cause, Decision
from tasks.live.account import held_back
from tasks.live.account_record import AccountRecord, Batch
from tasks.live.booking import book, lot_size

CAUSES = (
    Cause.ROUNDING, Cause.REVISED, Cause.GAP, Cause.FUNDING, Cause.LATE, Cause.DEADLINE, Cause.MISSED_BARS, Cause.CLOCK,
    Cause.CHAMPION, Cause.STALE, Cause.RESTART, Cause.STOP, Cause.PRICE,
)  # fmt: skip
"""In the order in which they are let in."""

_LAST = (Cause.PRICE, Cause.FEE, Cause.SLIPPAGE)
"""With orders: in place of the last of `CAUSES`, and behind what `order_replay.py` names."""

UNEXPLAINED = "unexplained"


@dataclass(frozen=True, kw_only=True)
class Attribution:
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


def attribute(record: AccountRecord, batch: Batch, reference: Batch | None = None) -> Attribution:
    """Trade an account's bars as a backtest does, then with one cause after another.

    Args:
        reference: Of the same bars as the exchange shows them today; None where they are the same.
    """
    there = _there(record, reference is not None)
    named = sorted(there - {"", *CAUSES, *_LAST})
    causes = (*CAUSES[:-1], *named, *_LAST) if record.by_orders else CAUSES
    backtest = before = _Trading(record, reference or batch, ()).worth()
    parts: dict[str, float] = {}
    for number, cause in enumerate(causes, 1):
        if cause not in there:
            continue
        let_in = causes[:number]
        bars = batch if reference is None or Cause.REVISED in let_in else reference
        after = _Trading(record, bars, let_in).worth()
        parts[cause], before = 1e4 * (after - before) / record.capital, after
    ledger = record.opens[-1].opened.ledger if record.opens else Ledger(record.capital)
    paper = ledger.equity(_last_close(record, batch))
    parts[UNEXPLAINED] = 1e4 * (paper - before) / record.capital
    return Attribution(bars=len(record.decisions), capital=record.capital, paper=paper, backtest=backtest, parts=parts)


def _there(record: AccountRecord, is_revised: bool) -> set[str]:
    """Return the causes that this journal has anything of."""
    found: set[str] = {Cause.ROUNDING, Cause.PRICE}
    found |= {record.cause(one) for one in record.decisions} | {bar.cause for bar in record.opens}
    starts = np.array([one.start_ms for one in record.decisions])
    if (np.diff(starts) > record.market.interval_ms).any():
        found.add(Cause.GAP)
    if record.by_orders:
        found |= {Cause.FEE, Cause.SLIPPAGE} | {_moved_by(record, bar) for bar in record.opens} - {""}
    if any(bar.opened.funding for bar in record.opens if record.by_orders) or any(
        bar.rate != record.rates.get(bar.start_ms, 0.0) for bar in record.opens
    ):
        found.add(Cause.FUNDING)
    return found | ({Cause.REVISED} if is_revised else set())


@dataclass(frozen=True)
class _Trading:
    """An account's bars traded by the core, but where one of `causes` holds."""

    record: AccountRecord
    batch: Batch
    causes: Collection[str]

    def worth(self) -> float:
        """Return what the account is worth at the last close, USDT."""
        if Cause.SLIPPAGE in self.causes:
            return _booked(self.record).equity(_last_close(self.record, self.batch))
        ledger, wanted, before = Ledger(self.record.capital), 0, None
        was_held = False  # by the journal's own account
        for step in self.record.steps():
            if isinstance(step, Decision):
                wanted, before = self._decided(step, ledger), step
                continue
            if Cause.GAP not in self.causes and self.record.follows_gap(step, before):
                wanted = 0
            rules = np.zeros(RULES)
            if before is not None:
                by = self.batch.rules if Cause.ROUNDING in self.causes else self.batch.unstepped
                rules = by[before.start_ms]
            if self.record.by_orders:
                ledger = self._ordered(step, ledger, wanted, rules)
            else:
                ledger = self._opened(step, ledger, wanted, was_held, rules)
            was_held = bool(step.opened.ledger.side)
        return ledger.equity(_last_close(self.record, self.batch))

    def _decided(self, one: Decision, ledger: Ledger) -> int:
        """Return what is wanted after a close, from the position that this account has."""
        target, row, batch = 0, self.batch.row[one.start_ms], self.batch
        if one.version:
            p_sell, p_hold, p_buy = batch.probabilities[one.version][row].tolist()
            vol, forecast, params = float(batch.vol[row]), batch.forecast[one.start_ms], batch.params[one.version]
            target = decide(p_sell, p_hold, p_buy, vol, forecast, ledger.side, ledger.bars_held, params)
        cause = self.record.cause(one)
        return held_back(cause, ledger.side, target) if cause in self.causes else target

    def _opened(self, bar: BarOpen, ledger: Ledger, wanted: int, was_held: bool, rules: FloatArray) -> Ledger:
        """Return the account after an open; amid a bar nothing opens but the end of a session that ends flat."""
        record, causes = self.record, self.causes
        if not record.begins_bar(bar):
            return record.broker(ledger, 0, bar.quote, 0.0, rules).ledger if Cause.STOP in causes else ledger
        quote = bar.quote if Cause.PRICE in causes else Quote(self.batch.first_price(bar))
        rate = record.rates.get(bar.start_ms, 0.0)
        if bar.start_ms not in self.batch.row or (Cause.FUNDING in causes and was_held):
            rate = bar.rate
        if bar.cause and bar.cause in causes:
            wanted = 0 if was_held and not bar.wanted else ledger.side  # of a flip that is late, one half is traded
        return record.broker(ledger, wanted, quote, rate, rules).ledger

    def _ordered(self, bar: BarOpen, ledger: Ledger, wanted: int, rules: FloatArray) -> Ledger:
        """Return the account after a row of orders: as decided, or as booked where its cause is let in."""
        record, causes, opens = self.record, self.causes, self.record.begins_bar(bar)
        quote = bar.quote if Cause.PRICE in causes or not opens else Quote(self.batch.first_price(bar))
        rate = record.rates.get(bar.start_ms, 0.0) if opens and Cause.FUNDING not in causes else 0.0
        if Cause.FUNDING in causes:
            ledger = ledger._replace(cash=ledger.cash - bar.opened.funding)
        trades = [one for one in record.booked.get(bar.start_ms, ()) if one.moves]
        if Cause.FEE in causes and (worth := sum(one.worth for one in trades)):
            rules = rules.copy()
            rules[COMMISSION] = float(sum(one.fill.fee for one in trades) / worth)
        if _moved_by(record, bar) in causes:
            after, (_, bid, ask) = bar.opened.ledger, quote
            costs = rules[COMMISSION], rules[SLIPPAGE], rules[TICK]
            cash, *_ = fill(ledger.cash, ledger.quantity, after.quantity, quote.first, *costs, bid, ask)
            return Ledger(cash, after.quantity, after.side, after.bars_held)
        return record.broker(ledger, wanted, quote, rate, rules).ledger if opens else ledger


def _moved_by(record: AccountRecord, bar: BarOpen) -> str:
    """Return why a row holds something else than was decided; empty where it does not."""
    moved = [one for one in record.booked.get(bar.start_ms, ()) if one.moves]
    bars = {record.bar_of(one) for one in moved}
    changes = [record.outside_change(one) or Cause.FOREIGN for one in moved if record.bar_of(one) is None]
    return next(iter(changes), bar.cause or (Cause.UNKNOWN if bars - {bar.start_ms} else ""))


def _booked(record: AccountRecord) -> Ledger:
    """Return the ledger that all executions in rows make, from the capital on."""
    ledger, held, least = Ledger(record.capital), ZERO, lot_size(record.instrument).least
    for bar in record.opens:
        executions = record.booked.get(bar.start_ms, [])
        held += sum((one.change for one in executions), ZERO)
        ledger = book(ledger, held, executions, bar.quote.first, least, opens=True).ledger
    return ledger


def _last_close(record: AccountRecord, batch: Batch) -> float:
    return float(batch.candles.close[batch.row[record.decisions[-1].start_ms]])
