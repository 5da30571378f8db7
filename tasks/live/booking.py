"""What a ledger becomes by what the exchange booked, and how many coins a decision asks for. Pure.

A session books by this, and a replay books again by it from the journal's executions: both are equal to the last digit.
"""

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal

from storage.schema import FloatArray, Instrument
from tasks.execution.accounting import size_of
from tasks.execution.orders import ZERO, LotSize
from tasks.execution.paper import Fill, Ledger, Opened
from tasks.journal.journal_rows import BookedExecution


def lot_size(instrument: Instrument) -> LotSize:
    """Return what a market trades in."""
    return LotSize(
        step=Decimal(instrument.qty_step),
        least=Decimal(instrument.min_qty),
        most=Decimal(instrument.max_market_qty),
        least_notional=Decimal(instrument.min_notional),
    )


def coins_of(wanted: int, ledger: Ledger, first: float, rules: FloatArray, lot: LotSize) -> Decimal:
    """Return the signed coins of a position, whole steps.

    Args:
        wanted: -1, 0 or 1.
        ledger: Before the open.
        first: The bar's first price, USDT.
        rules: (RULES,) from `accounting.account_rules`.
    """
    value = ledger.equity(first)
    coins = size_of(wanted, value, first, rules) if wanted and value > 0 else 0.0
    return (Decimal(coins) / lot.step).to_integral_value(ROUND_HALF_EVEN) * lot.step


def book(
    ledger: Ledger, held: Decimal, executions: Sequence[BookedExecution], first: float, least: Decimal, *, opens: bool
) -> Opened:
    """Return what executions make of a ledger.

    Args:
        ledger: Before them.
        held: Signed coins after them.
        first: The bar's first price, USDT, against which slippage is counted.
        least: Coins of an order, at least: less is flat.
        opens: Whether a bar begins; amid one no bar more has been held.
    """
    trades = [one for one in executions if one.moves]
    funding = float(sum((one.fill.fee for one in executions if not one.moves), ZERO))
    change = sum((one.change for one in trades), ZERO)
    paid = sum((one.change * one.fill.price for one in trades), ZERO)
    fee = float(sum((one.fill.fee for one in trades), ZERO))
    side = 0 if abs(held) < least else 1 if held > 0 else -1
    bars_held = ledger.bars_held + opens if side == ledger.side else 1
    after = Ledger(ledger.cash - float(paid) - fee - funding, float(held), side, bars_held)
    if not trades:
        return Opened(after, None, funding)
    price = float(paid / change) if change else first
    return Opened(after, Fill(float(change), price, fee, float(paid) - float(change) * first), funding)
