"""What a session came to: its numbers, beside those of a replay of the same bars, and a decision as a line of JSON."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psutil

from storage.schema import CLASSES
from storage.written import written
from tasks.journal.journal_reader import JournalReader
from tasks.journal.journal_rows import DIRECTIONS, Cause, Decision
from tasks.live.market_session import MarketSession
from tasks.live.session_replay import Replayed
from tasks.strategy.live_tick import PROBABILITIES, day_vol, forecast_vol, share_taken

_SUMS = (
    "bars",
    "missing",
    "repeated",
    "decisions",
    "fills",
    "duplicates",
    "unexplained",
    "equal_decisions",
    "equal_fills",
)


@dataclass(frozen=True, kw_only=True)
class SessionResult:
    """What a session came to.

    Attributes:
        name: Of the session; the same name again goes on with it.
        mode: signal, paper, or the account that orders went to: sandbox, demo, testnet or live.
        numbers: As paper.json has them.
    """

    name: str
    mode: str
    journal: str
    numbers: Mapping[str, Any]

    @property
    def unexplained(self) -> int:
        """Differences from the backtest that have no cause."""
        return int(self.numbers["unexplained"])

    @property
    def status(self) -> int:
        """Exit status: 1 where a difference has no cause, or something is open that should be flat."""
        return int(self.unexplained > 0 or bool(self.numbers["still_open"]))

    def text(self) -> str:
        """Return the summary for a terminal."""
        one = self.numbers
        causes = ", ".join(f"{n} {cause}" for cause, n in one["causes"].items())
        lines = [
            f"session {self.name}: {one['bars']} bars stepped, {one['missing']} missing, {one['repeated']} repeated",
            *(f"  halted       {line}" for line in one["halted"]),
            *(f"  STILL OPEN   {line}" for line in one["still_open"]),
            f"  decisions    {one['decisions']}, {one['equal_decisions']} equal to the backtest's",
            f"  fills        {one['fills']}, {one['equal_fills']} equal to the backtest's, {one['duplicates']} twice",
            f"  features     within {one['feature_diff']:.1e}, probabilities within {one['probability_diff']:.1e}",
            f"  explained    {causes or 'nothing to explain'}",
            f"  unexplained  {one['unexplained']}",
            *(f"  volatility   {line}" for line in map(_forecast_line, one["markets"]) if line),
            f"  equity       {one['equity']:,.2f} USDT, was {one['capital']:,.2f}; {parts_text(one['difference_bp'])}",
            *(f"  rounding     {line}" for line in rounding_lines(one["difference_bp"], one["fills"])),
            *(f"  {name:<11}  p50 {at['p50']:.0f}, p99 {at['p99']:.0f}" for name, at in one["latency"].items()),
            f"  memory       {one['rss_mb']:.0f} MB",
            f"  journal      {self.journal}",
        ]
        return "\n".join(lines)


def parts_text(parts: Mapping[str, float]) -> str:
    """Return how far an account is from a backtest's and what each cause made of it, in basis points of the capital."""
    told = ", ".join(f"{cause} {part:+.1f}" for cause, part in parts.items() if abs(part) >= 0.05)  # what rounds to 0.0
    return f"{sum(parts.values()):+.1f} bp beside a backtest{f' ({told})' if told else ''}"


def rounding_lines(parts: Mapping[str, float], fills: int) -> Iterator[str]:
    """Yield what rounding is and what it costs a fill, in basis points of the capital; nothing where it costs none."""
    cost = -parts.get(Cause.ROUNDING, 0.0)
    if fills and abs(cost) >= 0.05:
        yield (
            f"{cost:.1f} bp, {cost / fills:.2f} a fill: prices are rounded to the tick, against the trader, and sizes "
            "to whole steps, which the backtest doesn't charge"
        )


def signal_line(session: MarketSession, decision: Decision) -> dict[str, Any]:
    """Return a decision as it is printed: time names the bar by its open, UTC, RFC 3339.

    The forecast volatility is per bar, over the version's volatility horizon, and that of 24 hours at the same rate;
    both are null where the version forecasts none. The share is what a position that is opened now takes of the usual
    one; 0 opens none. The daily limit is what an account that sends orders may lose on a day of such a position, share
    of its equity, before it is halted.
    """
    known = decision.values[PROBABILITIES].tolist() if not decision.lacks else []
    forecast, day = forecast_vol(decision.values), day_vol(decision.values, session.market.interval_ms)
    return {
        "time": datetime.fromtimestamp(decision.start_ms / 1000, UTC).isoformat().replace("+00:00", "Z"),
        "market": str(session.market),
        "version": decision.version or None,
        "direction": DIRECTIONS[decision.target],
        "confidence": max(known) if known else None,
        "probabilities": dict(zip(CLASSES, known, strict=True)) if known else None,
        "expected_return": decision.mu if known else None,
        "foreseen_volatility": forecast if math.isfinite(forecast) else None,
        "foreseen_volatility_24h": day if math.isfinite(day) else None,
        "share": share_taken(decision.values),
        "daily_limit": session.daily_limit(decision),
        "target": decision.target,
        "reason": decision.reason if not decision.cause else f"{decision.reason}; not traded: {decision.cause}",
    }


def market_numbers(
    one: MarketSession, reader: JournalReader, again: Replayed, shadows: Mapping[str, Replayed]
) -> dict[str, Any]:
    """Return what became of one market: of its own account, and of the shadows by version."""
    fills = [bar.start_ms for bar in reader.opens(one.market.slug) if bar.opened.fill]
    last = reader.decisions(one.market.slug, last=1)
    day = day_vol(last[0].values, one.market.interval_ms) if last else math.nan
    return {
        "market": str(one.market),
        "slug": one.market.slug,
        "version": str(one.own.model.ref) if one.own.model else None,
        "halted": one.halted,
        "still_open": one.still_open,
        "bars": again.bars,
        "missing": again.missing,
        "repeated": one.counts.repeated,
        "decisions": again.bars,
        "fills": again.fills,
        "duplicates": len(fills) - len(set(fills)),
        "unexplained": again.unexplained + sum(shadow.unexplained for shadow in shadows.values()),
        "causes": again.causes,
        "equal_decisions": again.equal_decisions,
        "equal_fills": again.equal_fills,
        "feature_diff": again.feature_diff,
        "probability_diff": again.probability_diff,
        "foreseen_volatility_24h": day if math.isfinite(day) else None,
        "share": share_taken(last[0].values) if last else None,
        "daily_limit": one.daily_limit(last[0]) if last else None,
        "capital": float(reader.facts()["capital"][one.market.slug]),
        "equity": one.worth(one.own),
        "backtest_equity": again.comparison.backtest if again.comparison else None,
        "difference_bp": dict(again.comparison.parts) if again.comparison else {},
        "shadows": {
            account.version: {
                "equity": one.worth(account),
                "fills": shadows[account.version].fills,
                "unexplained": shadows[account.version].unexplained,
            }
            for account in one.accounts[1:]
        },
    }


def _forecast_line(numbers: Mapping[str, Any]) -> str:
    """Return what a market's numbers say of its last bar's volatility; empty where none was forecast."""
    if numbers["foreseen_volatility_24h"] is None:
        return ""
    day, share, limit = (
        written(numbers[name], "share") for name in ("foreseen_volatility_24h", "share", "daily_limit")
    )
    return (
        f"{numbers['market']}: {day} in the next 24 hours forecast; {share} of a position is taken; "
        f"by orders a day may lose {limit}"
    )


def session_numbers(markets: Sequence[tuple[MarketSession, dict[str, Any]]], reader: JournalReader) -> dict[str, Any]:
    """Return what became of a session: sums, extremes and stages over its markets, and each market's own numbers."""
    each = [numbers for _, numbers in markets]
    capital = sum(numbers["capital"] for numbers in each)
    parts: dict[str, float] = {}  # of the capital of all markets together
    for numbers in each:
        for cause, part in numbers["difference_bp"].items():
            parts[cause] = parts.get(cause, 0.0) + part * numbers["capital"] / capital
    return {
        **{name: sum(numbers[name] for numbers in each) for name in _SUMS},
        "causes": dict(sum((Counter(numbers["causes"]) for numbers in each), Counter[str]())),
        "halted": [f"{numbers['market']}: {numbers['halted']}" for numbers in each if numbers["halted"]],
        "still_open": [numbers["still_open"] for numbers in each if numbers["still_open"]],
        "feature_diff": max(numbers["feature_diff"] for numbers in each),
        "probability_diff": max(numbers["probability_diff"] for numbers in each),
        "capital": capital,
        "equity": sum(numbers["equity"] for numbers in each),
        "difference_bp": parts,
        "latency": _latency([one for one, _ in markets], reader),
        "rss_mb": float(psutil.Process().memory_info().rss / 1e6),
        "markets": each,
    }


def _latency(markets: Sequence[MarketSession], reader: JournalReader) -> dict[str, dict[str, float]]:
    """Return p50 and p99 of each stage of all decisions: queue, step and journal in us, feed in ms."""
    decisions = [decision for one in markets for decision in reader.decisions(one.market.slug)]
    streamed = [decision for decision in decisions if np.isfinite(decision.queue_us)]
    stages = {
        "feed_ms": [decision.feed_ms for decision in decisions],
        "queue_us": [decision.queue_us for decision in streamed],
        "step_us": [decision.step_us for decision in decisions],
        "journal_us": [took for one in markets for took in one.counts.journal_us],
    }
    return {
        name: {"p50": float(np.percentile(known, 50)), "p99": float(np.percentile(known, 99))}
        for name, values in stages.items()
        if (known := [value for value in values if np.isfinite(value)])
    }
