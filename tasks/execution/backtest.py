"""Trade decided targets out of sample through the accounting core and return the equity and its costs.

A target decided at the close of bar t is filled at the open of bar t + 1. After a gap an open position is closed at the
first open and no earlier decision is filled. A position still open at the end is closed at the last close and pays its
exit costs.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Gt, Le
from numpy.typing import NDArray

from storage.bounds import Checked, NonNegativeInt, PositiveFloat
from storage.schema import MINUTE_MS, BoolArray, FloatArray, LeakError, Title, utc_text
from tasks.execution.accounting import Costs, Steps, account_rules, as_compiled, run_account
from tasks.execution.bars import Bars
from tasks.execution.trades import GAP, Trades, list_trades


@dataclass(frozen=True, kw_only=True)
class BacktestConfig(Checked):
    """Capital, position size and delay of a backtest.

    Attributes:
        initial_capital: USDT.
        position_fraction: Notional of a new position, share of equity; the rest pays fees. There is no leverage,
            because margin calls are not simulated.
        fixed_coins: Coins per position instead of a share of equity; None: off.
        delay: Bars between decision and fill beyond the next open. A profit that disappears at 1 or 2 came from
            bid-ask bounce (Roll 1984).
    """

    initial_capital: Annotated[PositiveFloat, Title("Capital, USDT")] = 100_000.0
    position_fraction: Annotated[float, Gt(0), Le(1), Title("Share of the capital in a position")] = 0.95
    fixed_coins: Annotated[PositiveFloat | None, Title("Coins in a position")] = None
    delay: Annotated[NonNegativeInt, Title("Delay of a fill, bars")] = 0

    def usual_share(self, equity: float, price: float) -> float:
        """Return what the usual position is worth, share of an equity; where coins are fixed it hangs on the price.

        Args:
            equity: USDT, > 0.
            price: USDT.
        """
        return self.position_fraction if self.fixed_coins is None else self.fixed_coins * price / equity


class Positions(NamedTuple):
    """Target decided at each close.

    Attributes:
        target: (T,) side: -1, 0 or 1.
        share: (T,) size of a position opened by that decision, as a share of the full one, in 0..1; None: always full.
    """

    target: NDArray[np.signedinteger]
    share: FloatArray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class BacktestResult:
    """Equity, position and costs of a backtest, bar by bar. Money in USDT.

    Attributes:
        bars: The T bars.
        target: (T,) side decided at each close.
        contiguous: (T,) whether a decision of the bar before could be filled.
        equity: (T + 1,) at the start, then marked at each close, net of all costs; 0 after ruin.
        quantity: (T,) signed coins held from the bar's open to its close.
        traded, fees, slippage: (T,) notional traded in the bar at prices before slippage, and its costs.
        funding: (T,) paid at the bar's open; negative where received.
        ruined_at: Bar in which equity fell to 0 or less; None if it never did.
        shortfall: Negative equity at the ruin, as a number >= 0: the exchange's loss, not the account's.
        tick: Fill prices are multiples of it, USDT; 0: not rounded.
    """

    bars: Bars
    target: NDArray[np.int8]
    contiguous: BoolArray
    costs: Costs
    equity: FloatArray
    quantity: FloatArray
    traded: FloatArray
    fees: FloatArray
    slippage: FloatArray
    funding: FloatArray
    ruined_at: int | None
    shortfall: float
    tick: float

    @cached_property
    def trades(self) -> Trades:
        """Every round trip."""
        return list_trades(
            self.bars, self.quantity, self.funding, self.costs, self.contiguous, self.ruined_at, self.tick
        )

    @property
    def fees_paid(self) -> float:
        """Commission of every fill."""
        return float(self.fees.sum())

    @property
    def slippage_paid(self) -> float:
        """Slippage of every fill."""
        return float(self.slippage.sum())

    @property
    def funding_paid(self) -> float:
        """Funding paid, less funding received."""
        return float(self.funding.sum())

    @property
    def gross_profit(self) -> float:
        """Profit from price moves alone: net profit before fees, slippage and funding."""
        costs = self.fees_paid + self.slippage_paid + self.funding_paid
        return float(self.equity[-1] - self.equity[0]) - self.shortfall + costs

    @property
    def flags(self) -> tuple[str, ...]:
        """Warnings that belong to the numbers, one sentence each."""
        said = []
        if self.ruined_at is not None:
            said.append(
                f"ruined in the bar of {utc_text(int(self.bars.start_ms[self.ruined_at]))}; nothing traded after it"
            )
        gaps = int((self.trades.exit == GAP).sum())
        if gaps:
            said.append(f"{gaps} position{'s' if gaps > 1 else ''} closed at the first open after a gap")
        if len(self.trades) and self.ruined_at is None and self.trades.at_close[-1]:
            said.append("the last position was closed at the last close, its costs paid")
        free = self.costs.free_costs()
        if free:
            said.append(f"left out of the costs: {', '.join(free)}")
        return tuple(said)


def run_backtest(
    bars: Bars,
    target: NDArray[np.signedinteger],
    costs: Costs,
    config: BacktestConfig,
    *,
    trained_until_ms: int | None,
    label_span_ms: int,
    steps: Steps = Steps(),
    share: FloatArray | None = None,
) -> BacktestResult:
    """Trade the targets.

    Args:
        bars: T bars.
        target: (T,) side decided at each close: -1, 0 or 1. The last one is never filled.
        trained_until_ms: Open time of the last bar that the model or any of its settings was fitted on, validation
            included, UTC milliseconds; None where nothing was fitted.
        label_span_ms: How far that bar's label looks ahead: (horizon + 1) bars, in milliseconds.
        steps: Step sizes and minimums of the exchange; off by default, as a strategy should not depend on them.
        share: (T,) as in `Positions`.

    Raises:
        LeakError: The first bar is not later than all data that training used.
        ValueError: `target` or `share` has another length than the bars, or a value that is not allowed.
    """
    require_unseen(int(bars.start_ms[0]), trained_until_ms=trained_until_ms, label_span_ms=label_span_ms)
    return _run(bars, target, costs, config, bars.contiguous, steps, share)


def buy_and_hold(bars: Bars, costs: Costs, config: BacktestConfig) -> BacktestResult:
    """Buy at the second open and hold to the last close, through gaps too."""
    return _run(bars, np.ones(len(bars), np.int8), costs, config, np.ones(len(bars), np.bool_))


def flat(bars: Bars, costs: Costs, config: BacktestConfig) -> BacktestResult:
    """Hold no position at any time: the baseline while a market has no champion."""
    return _run(bars, np.zeros(len(bars), np.int8), costs, config, bars.contiguous)


def require_unseen(first_ms: int, *, trained_until_ms: int | None, label_span_ms: int) -> None:
    """Refuse bars that training used; arguments as in `run_backtest`, with the first bar's open time.

    Raises:
        LeakError: That bar is not later than all data that training used.
    """
    if trained_until_ms is None:
        return
    seen_ms = trained_until_ms + label_span_ms
    if first_ms <= seen_ms:
        raise LeakError(
            f"a backtest must start after {utc_text(seen_ms)}, the last bar that training saw"
            f" (samples until {utc_text(trained_until_ms)}, labels {label_span_ms // MINUTE_MS} minutes ahead),"
            f" was {utc_text(first_ms)}; use later bars or a model trained on earlier ones"
        )


def _require_positions(target: NDArray[np.signedinteger], share: FloatArray, bars: int) -> None:
    if target.shape != (bars,):
        raise ValueError(f"target must be ({bars},) as the bars, was {target.shape}")
    strange = (target != -1) & (target != 0) & (target != 1)
    if strange.any():
        bar = int(np.argmax(strange))
        raise ValueError(f"target must be -1, 0 or 1, was {target[bar].item()!r} in bar {bar}")
    if share.shape != (bars,) or not ((share >= 0.0) & (share <= 1.0)).all():
        raise ValueError(f"share must be ({bars},) numbers in 0..1, was {share.shape} {share}")


def _run(
    bars: Bars,
    target: NDArray[np.signedinteger],
    costs: Costs,
    config: BacktestConfig,
    contiguous: BoolArray,
    steps: Steps = Steps(),
    share: FloatArray | None = None,
) -> BacktestResult:
    share = np.ones(len(bars)) if share is None else share
    _require_positions(target, share, len(bars))
    rates = np.empty(0) if bars.funding_rate is None else bars.funding_rate
    rules = account_rules(config.position_fraction, config.fixed_coins, costs, steps)
    equity = np.empty(len(bars) + 1)
    books = np.zeros((5, len(bars)))
    ruined_at, shortfall = run_account(
        as_compiled(bars.open, np.float64),
        as_compiled(bars.close, np.float64),
        as_compiled(target, np.int8),
        as_compiled(share, np.float64),
        as_compiled(contiguous, np.bool_),
        as_compiled(rates, np.float64),
        config.initial_capital,
        config.delay,
        rules,
        equity,
        books,
    )
    names = ("quantity", "traded", "fees", "slippage", "funding")
    return BacktestResult(
        bars=bars,
        target=target.astype(np.int8),
        contiguous=contiguous,
        costs=costs,
        equity=equity,
        **dict(zip(names, books, strict=True)),
        ruined_at=None if ruined_at < 0 else int(ruined_at),
        shortfall=float(shortfall),
        tick=steps.tick,
    )
