"""The accounting core: what a bar's open does to an account. Backtest, paper and live all book through it.

    funding   cash -= q * open * rate, with the quantity held AT the funding stamp: before that bar's own fill
    fill      price = open * (1 + sign(dq) * slippage); fee = commission * |dq| * price; cash -= dq * price + fee
    equity    cash + q * price

q is signed: a short is a negative quantity, so the same formulas hold for both sides. A flip is one order of
|q_new| + |q_old| coins, so it pays both legs. With an exchange's `Steps` a quantity is rounded down to whole steps, or
to 0 below the minimum, and a price is rounded to the next tick against the account.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

import numpy as np
from annotated_types import Ge, Lt, Unit
from numpy.typing import NDArray

from storage.bounds import Checked
from storage.compiled import compiled
from storage.schema import BoolArray, FloatArray, Instrument, IntArray

_SAME = 1e-9  # of a step: allows for the rounding error of a quotient; no exchange distinguishes so little

# A rate of 10 % or more is most likely a percentage or basis points typed where a share was meant.
Rate = Annotated[float, Ge(0), Lt(0.1), Unit("of the notional")]


@dataclass(frozen=True, kw_only=True)
class Costs(Checked):
    """What trading costs.

    Attributes:
        commission: Fee of each fill, share of its notional; 0.001 is the source text's: Bybit's taker fee plus 4.5 bp.
        slippage: Half-spread and impact of each fill, share of the bar's open price.
        funding: Whether funding is paid and received at its stamps.
    """

    commission: Rate = 0.001
    slippage: Rate = 0.0001
    funding: bool = True

    @property
    def per_side(self) -> float:
        """Cost of one fill, share of its notional."""
        return self.commission + self.slippage

    @property
    def round_trip(self) -> float:
        """Cost of opening and closing a position, share of the notional."""
        return 2.0 * self.per_side

    def scaled(self, factor: float) -> Self:
        """Return the same costs with commission and slippage times `factor`; funding stays as it is."""
        return replace(self, commission=self.commission * factor, slippage=self.slippage * factor)

    def at(self, per_side: float) -> Self:
        """Return costs of `per_side` a fill, share of the notional, split in the same proportion; funding stays."""
        if not self.per_side:
            return replace(self, commission=per_side)
        return self.scaled(per_side / self.per_side)

    def free_costs(self) -> tuple[str, ...]:
        """Return the names of the costs that are zero or off, so that a report can warn of them."""
        paid = {"commission": self.commission, "slippage": self.slippage, "funding": self.funding}
        return tuple(name for name, cost in paid.items() if not cost)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """An exchange's step sizes and minimums; 0 turns each off, which is the default of a backtest.

    Attributes:
        quantity: Coins; a position is a multiple of it.
        tick: Quote currency; a price is a multiple of it.
        least_quantity: Smallest position, coins.
        least_notional: Smallest notional of a position when it is opened, quote currency.
    """

    quantity: float = 0.0
    tick: float = 0.0
    least_quantity: float = 0.0
    least_notional: float = 0.0

    @classmethod
    def of(cls, instrument: Instrument) -> Self:
        """Return the steps of a market."""
        return cls(
            quantity=float(instrument.qty_step),
            tick=float(instrument.tick_size),
            least_quantity=float(instrument.min_qty),
            least_notional=float(instrument.min_notional),
        )


RULES = 9
"""Length of the array that `account_rules` returns."""
COMMISSION, SLIPPAGE, TICK = 2, 3, 5
"""Places in it."""


def account_rules(fraction: float, coins: float | None, costs: Costs, steps: Steps = Steps()) -> FloatArray:
    """Return (RULES,) the parameters of `trade_open`: size, costs, steps, and whether funding is paid.

    A new position has the notional `fraction`, share of equity, or where given a fixed size in coins.
    """
    sized = (steps.quantity, steps.tick, steps.least_quantity, steps.least_notional)
    return np.array([fraction, coins or 0.0, costs.commission, costs.slippage, *sized, float(costs.funding)])


def sized(rules: FloatArray, share: float) -> FloatArray:
    """Return the rules with the position size times `share`; for a share of 1, the same array.

    Args:
        rules: (RULES,) from `account_rules`.
        share: In 0..1, from `decision.share_of`; 0 opens nothing.
    """
    if share == 1.0:
        return rules
    part = rules.copy()
    part[:2] *= share
    return part


def as_compiled(values: NDArray[np.generic], dtype: type[np.generic]) -> NDArray[Any]:
    """Return `values` as a contiguous, writable array: Numba compiles each other layout anew, which takes seconds."""
    return np.require(values, dtype, ["C", "W"])


@compiled
def fill(
    cash: float,
    quantity: float,
    wanted: float,
    price: float,
    commission: float,
    slippage: float,
    tick: float = 0.0,
    bid: float = np.inf,
    ask: float = 0.0,
) -> tuple[float, float, float, float]:
    """Trade from `quantity` to `wanted` coins in one order.

    Args:
        cash: USDT before the fill.
        quantity: Signed coins before the fill.
        wanted: Signed coins after it.
        price: Price before slippage, USDT.
        commission: Share of the fill's notional.
        slippage: Share of `price`.
        tick, bid, ask: As in `price_of`.

    Returns:
        Cash after the fill; traded notional at `price`; fee; slippage paid: all USDT.
    """
    change = wanted - quantity
    fill_price = price_of(change, price, slippage, tick, bid, ask)
    fee = commission * abs(change) * fill_price
    traded = abs(change) * price
    return cash - change * fill_price - fee, traded, fee, abs(change) * abs(fill_price - price)


@compiled
def price_of(change: float, price: float, slippage: float, tick: float, bid: float, ask: float) -> float:
    """Return the price at which `change` coins trade, slippage included.

    Args:
        change: Signed coins.
        price: Price before slippage, USDT.
        slippage: Share of `price`.
        tick: The price is rounded against the account to a multiple of it; 0: off.
        bid: Best bid: a sale gets no higher price; infinite: off.
        ask: Best ask: a purchase gets no lower price; 0: off.
    """
    worse: float = price * (1.0 + slippage) if change > 0.0 else price * (1.0 - slippage)
    # A price that differs from a multiple of the tick by a rounding error alone is not moved by a whole tick.
    if change > 0.0:
        return max(math.ceil(worse / tick - _SAME) * tick if tick > 0.0 else worse, ask)
    return min(math.floor(worse / tick + _SAME) * tick if tick > 0.0 else worse, bid)


@compiled
def size_of(wanted: int, value: float, price: float, rules: FloatArray) -> float:
    """Return the signed coins of a position, rounded down to whole steps; 0 if that is below the exchange's minimum.

    `wanted` is -1, 0 or 1; equity `value` and price are in USDT.
    """
    coins: float = wanted * rules[1] if rules[1] > 0.0 else wanted * rules[0] * value / price
    if rules[4] > 0.0:
        coins = wanted * math.floor(abs(coins) / rules[4] + _SAME) * rules[4]
    if abs(coins) < rules[6] * (1.0 - _SAME) or abs(coins) * price < rules[7] * (1.0 - _SAME):
        return 0.0
    return coins


@compiled
def trade_open(
    cash: float,
    quantity: float,
    side: int,
    wanted: int,
    price: float,
    funding_rate: float,
    rules: FloatArray,
    bid: float = np.inf,
    ask: float = 0.0,
) -> tuple[float, float, float, float, float, float]:
    """Book one bar's open: pay its funding, then trade to the side that was decided.

    The quantity changes only when the side does, and is sized before fees: q = side * fraction * equity / price.

    Args:
        cash: USDT before the open.
        quantity: Signed coins before the open.
        side: Side held before the open: -1, 0 or 1.
        wanted: Side decided at the close before: -1, 0 or 1. If equity is 0 or less, the position is closed instead.
        price: The bar's open, USDT.
        funding_rate: Rate due at this open, 0 for none.
        rules: (RULES,) from `account_rules`.
        bid, ask: As in `price_of`.

    Returns:
        Cash and quantity after the open; traded notional, fee, slippage and funding paid: all but the quantity in USDT.
    """
    paid = quantity * price * funding_rate * rules[8]
    cash -= paid
    value = cash + quantity * price
    if value <= 0.0:
        wanted = 0
    if wanted == side:
        return cash, quantity, 0.0, 0.0, 0.0, paid
    coins = size_of(wanted, value, price, rules)
    cash, traded, fee, slipped = fill(cash, quantity, coins, price, rules[2], rules[3], rules[5], bid, ask)
    return cash, coins, traded, fee, slipped, paid


@compiled
def run_account(
    open_: FloatArray,
    close: FloatArray,
    target: IntArray,
    share: FloatArray,
    contiguous: BoolArray,
    funding_rate: FloatArray,
    capital: float,
    delay: int,
    rules: FloatArray,
    equity: FloatArray,
    books: FloatArray,
) -> tuple[int, float]:
    """Trade the targets of T bars in one account.

    A target decided at the close of t is filled at the open of t + 1 + delay if every bar in between directly follows
    the one before. After a gap an open position is closed at the first open. A position still open at the end is closed
    at the last close. An account whose equity falls to 0 or less, at an open or a close, is closed there and stays at
    0.

    Args:
        open_: (T,) USDT.
        close: (T,) USDT.
        target: (T,) side decided at each close: -1, 0 or 1.
        share: (T,) size decided at each close, as a share of the full position; a position opened by that decision has
            this size.
        contiguous: (T,) whether a bar directly follows the one before.
        funding_rate: (T,) or (0,) for none.
        capital: USDT at the start.
        delay: Bars between decision and fill beyond the next open.
        rules: (RULES,) from `account_rules`.
        equity: (T + 1,) output: at the start, then at each close, USDT.
        books: (5, T) output, zeros on entry: quantity held at the close; traded notional, fee, slippage, funding.

    Returns:
        The bar of the ruin, or -1 if there was none; and the negative equity at the ruin as USDT >= 0, which is the
        exchange's loss.
    """
    bars = len(open_)
    cash, quantity, side, run = capital, 0.0, 0, 0
    part = rules.copy()
    equity[0] = capital
    for t in range(bars):
        run = run + 1 if t > 0 and contiguous[t] else 0
        wanted = target[t - 1 - delay] if run > delay else 0
        rate = funding_rate[t] if len(funding_rate) > 0 else 0.0
        if wanted != side or quantity != 0.0:
            if wanted != 0:  # as `sized`
                part[0], part[1] = rules[0] * share[t - 1 - delay], rules[1] * share[t - 1 - delay]
            cash, quantity, traded, fee, slipped, paid = trade_open(cash, quantity, side, wanted, open_[t], rate, part)
            side = wanted if quantity != 0.0 else 0
            books[0, t] = quantity
            if traded > 0.0:
                books[1, t], books[2, t], books[3, t] = traded, fee, slipped
            if paid != 0.0:
                books[4, t] = paid
        value = cash + quantity * close[t]
        if quantity != 0.0 and (value <= 0.0 or t == bars - 1):
            cash, traded, fee, slipped = fill(cash, quantity, 0.0, close[t], rules[2], rules[3], rules[5])
            quantity, value = 0.0, cash
            books[1, t] += traded
            books[2, t] += fee
            books[3, t] += slipped
        equity[t + 1] = value
        if value <= 0.0:
            equity[t + 1 :] = 0.0
            return t, -value
    return -1, 0.0
