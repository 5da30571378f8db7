"""What a journal says of one account, and what a batch makes of the same candles: what any replay begins with."""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from storage.schema import MINUTE_MS, Candles, FloatArray, Instrument, IntArray, Market
from tasks.champion.serving import ServedModel
from tasks.execution.accounting import RULES, Steps, account_rules, sized
from tasks.execution.bars import funding_by_bar
from tasks.execution.decision import share_of
from tasks.execution.orders import Order
from tasks.execution.paper import BROKERS, Broker, open_bar
from tasks.journal.journal_reader import JournalReader
from tasks.journal.journal_rows import BarOpen, BookedExecution, Cause, Decision
from tasks.live.position_keeper import OUTSIDE_CHANGES, move_text
from tasks.live.session_config import session_rules
from tasks.market.features import build_features
from tasks.market.volatility import forecast_volatility
from tasks.strategy.live_tick import forecast_vol

PredictHistory = Callable[[ServedModel, FloatArray, IntArray], tuple[FloatArray, FloatArray]]
"""A version, (T, F) features and (T,) segments to (T, 3) probabilities and the (T,) logarithm of the variance ratio of
its risk: the way that history is predicted."""

FORECAST_BOUND = 1e-5
"""How far the volatility that a session forecast may lie from the batch's, share of it."""


@dataclass(frozen=True, kw_only=True)
class AccountRecord:
    """What the journal says of an account.

    Attributes:
        candles: Every candle that was stepped, those of the warm-up included.
        origins: Open time of each -> warm-up, stream or rest.
        decisions: Those whose candle is there.
        notes: Time and kind of each note of the market.
        moves: Time, kind and text of the notes of what moved the position beside the session's orders.
        by_orders: Whether orders carried its decisions out; else they were filled on paper.
        orders: Every order, with the bar that it trades at.
        rates: Open time -> sum of the funding rates due.
        session: Name of the session; empty where the journal does not say.
        unsealed: Names of executions that are not what was written.
        capital: USDT at the start.
        deadline_ms: What is later than that is too late.
    """

    market: Market
    candles: Candles
    origins: Mapping[int, str]
    decisions: list[Decision]
    opens: list[BarOpen]
    notes: list[tuple[int, str]]
    moves: Set[tuple[int, str, str]]
    broker: Broker
    by_orders: bool
    orders: list[tuple[int, Order]]
    executions: list[BookedExecution]
    rates: Mapping[int, float]
    session: str
    unsealed: list[str]
    capital: float
    deadline_ms: float
    instrument: Instrument

    @classmethod
    def of(
        cls,
        reader: JournalReader,
        market: Market,
        account: str,
        instrument: Instrument,
        funding: list[tuple[int, float]] | None,
    ) -> Self:
        """Read it.

        Args:
            funding: Stamps and rates as the exchange shows them today; None: as the journal has them.
        """
        facts, (candles, origins) = reader.facts(), reader.candles(market.slug)
        known, opens = dict(zip(candles.start_ms.tolist(), origins, strict=True)), reader.opens(account)
        notes = [(at_ms, kind, said) for at_ms, slug, kind, said in reader.notes() if slug == market.slug]
        return cls(
            market=market,
            candles=candles,
            origins=known,
            decisions=[one for one in reader.decisions(account) if one.start_ms in known],
            opens=opens,
            notes=[(at_ms, kind) for at_ms, kind, _ in notes],
            moves=frozenset(note for note in notes if note[1] in OUTSIDE_CHANGES),
            broker=BROKERS.get(facts["mode"], open_bar),
            by_orders=facts["mode"] not in BROKERS and account == market.slug,  # shadows fill on paper
            orders=reader.orders(account),
            executions=reader.executions(account),
            rates=_rates(candles, market, opens, funding),
            session=str(facts.get("session", "")),
            unsealed=reader.unsealed(account),
            capital=float(facts["capital"][account]),
            deadline_ms=float(facts["deadline_ms"][market.slug]),
            instrument=instrument,
        )

    def begins_bar(self, row: BarOpen) -> bool:
        """Return whether a row of the ledger is a bar's open, not amid one."""
        return self.market.floor(row.start_ms) == row.start_ms

    def follows_gap(self, row: BarOpen, before: Decision | None) -> bool:
        """Return whether bars are missing between a decision and the open that follows it."""
        return before is not None and row.start_ms > before.start_ms + self.market.interval_ms

    def proofs(self, row: BarOpen) -> dict[str, bool]:
        """Return the causes of a row that was not carried out which the journal proves, and whether each holds."""
        before_ms = row.start_ms - self.market.interval_ms
        return {
            Cause.STALE: not row.late_ms <= self.deadline_ms,
            Cause.RESTART: (before_ms, "resumed") in self.notes,
            Cause.STOP: (before_ms, "stopped") in self.notes,
        }

    def steps(self) -> Iterator[BarOpen | Decision]:
        """Yield opens and decisions in the order in which they came about: a bar's open, then what its close led to."""
        opens = self.opens[::-1]
        for one in self.decisions:
            while opens and opens[-1].start_ms < one.start_ms + self.market.interval_ms:
                yield opens.pop()
            yield one
        yield from reversed(opens)

    @cached_property
    def booked(self) -> Mapping[int | None, list[BookedExecution]]:
        """What the exchange booked, by the row of the ledger that holds it; None: no row does."""
        found: dict[int | None, list[BookedExecution]] = {}
        for one in self.executions:
            found.setdefault(one.booked_ms, []).append(one)
        return found

    def outside_change(self, one: BookedExecution) -> str:
        """Return who moved the position where no order of the session did, as noted then; empty where nobody."""
        said = move_text(one.kind, one.fill)
        return next((kind for kind in OUTSIDE_CHANGES if (one.time_ms, kind, said) in self.moves), "")

    @cached_property
    def _bars(self) -> Mapping[str, int]:
        return {order.link_id: start_ms for start_ms, order in self.orders}

    def bar_of(self, one: BookedExecution) -> int | None:
        """Return the bar of the order that an execution is of; None for no order of the session."""
        return self._bars.get(one.link_id) if one.kind == "Trade" else None

    def cause(self, one: Decision) -> str:
        """Return why a decision was not traded: late is a deadline that the feed alone has missed."""
        return Cause.LATE if one.cause == Cause.DEADLINE and one.feed_ms > self.deadline_ms else one.cause


def _rates(
    candles: Candles, market: Market, opens: list[BarOpen], funding: list[tuple[int, float]] | None
) -> dict[int, float]:
    """Return the funding rate due at each open."""
    if funding is None:
        return {bar.start_ms: bar.rate for bar in opens}
    stamps = np.array([stamp for stamp, _ in funding], np.int64)
    values = np.array([rate for _, rate in funding], np.float64)
    if not len(candles):
        return {}
    by_bar = funding_by_bar(stamps // MINUTE_MS * MINUTE_MS, values, candles.start_ms, market.interval_ms)
    return dict(zip(candles.start_ms.tolist(), by_bar.tolist(), strict=True))


class Batch:
    """Features and probabilities of all candles at once, and what is decided and traded by.

    Args:
        models: Every version that decided, by name.
        candles: What to predict in place of the journal's candles, bar for bar.

    Attributes:
        values: (T, F) features.
        vol: (T,) volatility per bar.
        row: Open time of a bar -> where it lies among them.
        models: By name.
        probabilities: Version -> (T, 3).
        params: Version -> (10,) for `decide`.
        forecast: Open time of a decided bar -> volatility per bar that its version forecasts there. Of the two numbers
            that a session and a batch have for it, which differ in digits that are nobody's, it is the session's.
        share: Open time of a decided bar -> share of the usual position that one which is opened then takes.
        rules: Open time of a decided bar -> (RULES,) what its account opens a position by.
        unstepped: The same without the exchange's steps, as a backtest trades.
    """

    def __init__(
        self,
        record: AccountRecord,
        models: Mapping[str, ServedModel],
        predict: PredictHistory,
        candles: Candles | None = None,
    ) -> None:
        self.candles = record.candles if candles is None else candles
        built = build_features(self.candles.matrix(), record.market.interval_ms)
        self.values, self.vol = built.values, built.vol
        self.row = {int(ms): row for row, ms in enumerate(self.candles.start_ms)}
        self.models = {one.version: models[one.version] for one in record.decisions if one.version}
        said = {name: predict(model, built.values, built.segment) for name, model in self.models.items()}
        self.probabilities = {name: probabilities for name, (probabilities, _) in said.items()}
        forecast = {name: forecast_volatility(self.vol, ratio) for name, (_, ratio) in said.items()}
        self.params = {name: model.params for name, model in self.models.items()}
        # Where there is no version, what is held is closed by the rules of the one before; at first nothing is held.
        self.forecast: dict[int, float] = {}
        self.share: dict[int, float] = {}
        self.rules: dict[int, FloatArray] = {}
        self.unstepped: dict[int, FloatArray] = {}
        rules = unstepped = np.zeros(RULES)
        for one in record.decisions:
            share = 1.0
            if one.version:
                recipe = self.models[one.version].recipe
                account = recipe.backtest
                rules = session_rules(recipe, record.instrument)
                unstepped = account_rules(account.position_fraction, account.fixed_coins, recipe.costs, Steps())
                self.forecast[one.start_ms] = _settled(float(forecast[one.version][self.row[one.start_ms]]), one)
                share = share_of(self.forecast[one.start_ms], self.params[one.version])
            self.share[one.start_ms] = share
            self.rules[one.start_ms], self.unstepped[one.start_ms] = sized(rules, share), sized(unstepped, share)

    def first_price(self, bar: BarOpen) -> float:
        """Return the first price of a bar, USDT: its candle's, or where it has not closed, all that is known."""
        row = self.row.get(bar.start_ms)
        return bar.quote.first if row is None else float(self.candles.open[row])

    def rules_after(self, decision: Decision | None) -> FloatArray:
        """Return (RULES,) what follows a decision trades by; before the first one nothing is held."""
        return np.zeros(RULES) if decision is None else self.rules[decision.start_ms]


def _settled(forecast: float, one: Decision) -> float:
    """Return what a session forecast where that is, but for its last digits, what the batch forecasts."""
    journalled = forecast_vol(one.values)
    return journalled if abs(journalled - forecast) <= FORECAST_BOUND * forecast else forecast
