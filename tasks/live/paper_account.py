"""An account whose decisions are filled on paper: the session's own without orders, or a shadow's beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from storage.schema import FloatArray
from tasks.exchange.stream_events import BookTop
from tasks.execution.paper import Ledger, Opened, Quote, open_bar
from tasks.journal.journal_rows import BarOpen, Cause
from tasks.live.account import Account, FirstPrice, nothing_new
from tasks.live.exchange_time import ExchangeTime, elapsed_ms

Broker = Callable[[Ledger, int, Quote, float, FloatArray], Opened]
"""Pays the funding that is due and trades to the wanted side, as `paper.open_bar` does."""


def watch(ledger: Ledger, wanted: int, quote: Quote, funding_rate: float, rules: FloatArray) -> Opened:
    """Trade nothing and note what would be held: the broker of a session that only gives signals.

    Args:
        ledger: Before the open.
        wanted: Side that is decided: -1, 0 or 1.
        quote: Not looked at, as the two after it.
        funding_rate: Sum of the rates due.
        rules: (RULES,) from `account_rules`.
    """
    held = ledger.bars_held + 1 if wanted == ledger.side else 1
    return Opened(ledger._replace(side=wanted, bars_held=held), None, 0.0)


BROKERS: dict[str, Broker] = {"signal": watch, "paper": open_bar}
"""By the session's mode."""


@dataclass(eq=False)
class PaperAccount(Account):
    """A version that decides, and a ledger that a broker keeps.

    Attributes:
        broker: Who trades.
    """

    broker: Broker = field(kw_only=True, default=open_bar)

    def try_open(
        self,
        start_ms: int,
        first: FirstPrice,
        book: BookTop | None,
        time: ExchangeTime,
        deadline_ms: float,
        rate: float,
    ) -> BarOpen | None:
        """Follow the last decision at a bar's open; None while the book is of before the open."""
        if self.pending is None or self.opened_ms >= start_ms:
            return None
        _, at_ms, received_ns = first
        trades = self.pending.wanted != self.ledger.side
        if trades and self._has_stale_decision:
            return None
        quote = Quote(first.price)
        if trades:
            if book is None or book.ts_ms < start_ms:
                return None  # the book of before the open says nothing about the open
            quote = Quote(first.price, book.bid, book.ask)
            at_ms, received_ns = time.at(book.ts_ms, book.received_ns), book.received_ns
        late_ms = at_ms - start_ms + elapsed_ms(received_ns)
        wanted = self.pending.wanted
        if late_ms > deadline_ms:
            wanted = nothing_new(self.ledger.side, wanted)
        return self._open(start_ms, wanted, "" if wanted == self.pending.wanted else Cause.STALE, quote, rate, late_ms)

    def open_unseen(self, start_ms: int, price: float, rate: float) -> BarOpen:
        """Book an open that nobody saw: funding is due, and nothing is traded."""
        undone = self.pending is not None and self.pending.wanted != self.ledger.side
        return self._open(start_ms, self.ledger.side, self.unfilled if undone else "", Quote(price), rate, math.nan)

    def close_out(self, at_ms: int, quote: Quote) -> BarOpen:
        """Book the end of a session that is to end flat, amid a bar."""
        return self._open(at_ms, 0, Cause.STOP, quote, 0.0, math.nan)

    def _open(self, start_ms: int, wanted: int, cause: str, quote: Quote, rate: float, late_ms: float) -> BarOpen:
        opened = self.broker(self.ledger, wanted, quote, rate, self._pending_rules)
        self.count(cause)
        return BarOpen(start_ms, wanted, cause, quote, rate, late_ms, opened)
