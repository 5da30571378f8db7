"""What a person reads at the end of a run: promoted or not and why, and the model beside what it had to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.schema import VersionRef
from tasks.champion.promotion import Check
from tasks.execution.track_record import FEWEST_TRADES
from tasks.reporting.report_data import ReportData
from tasks.strategy.contest import Contest
from tasks.strategy.out_of_sample import Evaluation

_DASH = "-"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One column of the table; None where there is no such number.

    Attributes:
        name: Who.
        net_return: On the unseen bars, net of costs.
        sharpe: Annualised, from UTC days, as text: with its interval, or why there is none.
        max_drawdown: Share of the peak.
        trades: Closed trades.
        log_loss: Nat.
        direction: Share of the moves that went where it said.
        edge_bp: Mean of what a move earned on the side that it named, before costs, basis points.
    """

    name: str
    net_return: float
    sharpe: str
    max_drawdown: float | None = None
    trades: int | None = None
    log_loss: float | None = None
    direction: float | None = None
    edge_bp: float | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A version in a few numbers, as its manifest keeps them.

    Attributes:
        origin: Of its candles: exchange, replayed or synthetic.
        days: Unseen days.
        sides: The model, the best baseline, buy and hold.
        warnings: What to know before believing any of it, one line each.
    """

    origin: str
    days: int
    sides: tuple[Side, ...]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Summary:
        """Return the summary that `asdict` made the document of."""
        sides = tuple(Side(**side) for side in document["sides"])
        return cls(**{**document, "sides": sides, "warnings": tuple(document["warnings"])})

    def of_the_model(self) -> list[tuple[str, str]]:
        """Return name and value of every number of the model, written out."""
        return [(name, cells[0]) for name, cells in _rows(self)]

    @property
    def next_step(self) -> str:
        """What whoever has read the verdict would do next."""
        if self.origin == "synthetic":
            return "the same on Bybit's public data, no key needed: make run EXCHANGE=bybit START=2025-01-01"
        return "a market that is retrained and judged every day, in the browser: make ui EXCHANGE=bybit"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a retrain came to.

    Attributes:
        version: The version that was stored.
        promoted: Whether it is the champion now.
        champion: The champion now: a version, or "flat".
        report: Where the report lies.
        decision: What was decided and why, one line.
        headline: The same in words for whoever started the run.
        checks: Every condition of the promotion rule; none for a version that was the champion already.
        summary: The version in numbers.
    """

    version: VersionRef
    promoted: bool
    champion: str
    report: str
    decision: str
    headline: str
    checks: tuple[Check, ...]
    summary: Summary

    def text(self, facts: Sequence[tuple[str, str]] = ()) -> str:
        """Return everything that a terminal shows of it, the verdict first and what to do next last.

        Args:
            facts: Further lines at the end, name and value.
        """
        report = self.report if "://" in self.report else Path(self.report).absolute().as_uri()
        rows = [("report", report), ("version", str(self.version)), *facts, ("next", self.summary.next_step)]
        closing = [f"  {name:<7}  {value}" for name, value in rows]
        return "\n".join([*verdict_lines(self.headline, self.checks, self.summary), *closing])


def summarise(report: ReportData, evaluation: Evaluation, contest: Contest) -> Summary:
    """Return a version in a few numbers.

    Args:
        report: Its page.
        evaluation: What its predictions were worth.
        contest: What it had to beat.
    """
    metrics, held, record = evaluation.money.model.metrics, evaluation.money.buy_and_hold.metrics, evaluation.record
    best, sharpe = contest.best_baseline, _sharpe(metrics.sharpe_ratio, record.trades)
    if record.low is not None:
        sharpe += f" ({record.low:.1f} to {record.high:.1f})"
    model = Side(
        name="model",
        net_return=metrics.total_return,
        sharpe=sharpe,
        max_drawdown=metrics.max_drawdown,
        trades=metrics.num_trades,
        log_loss=evaluation.skill.log_loss,
        direction=evaluation.skill.direction_accuracy,
        edge_bp=evaluation.skill.edge_bp,
    )
    rival = Side(
        name=best.name,
        net_return=best.total_return,
        sharpe=_sharpe(best.sharpe_ratio, best.num_trades or 0),
        max_drawdown=best.max_drawdown,
        trades=best.num_trades,
        log_loss=best.log_loss,
        direction=best.direction,
    )
    hold = Side(
        name="buy and hold",
        net_return=held.total_return,
        sharpe=_or_dash(held.sharpe_ratio, ".1f"),
        max_drawdown=held.max_drawdown,
        trades=held.num_trades,
    )
    origin = {
        "synthetic": ("synthetic market: says nothing about a real one",),
        "replayed": (f"replay of {report.origin_detail}: a champion here is none on Bybit",),
        "exchange": (),
    }[report.origin]
    return Summary(
        origin=report.origin, days=round(metrics.days), sides=(model, rival, hold), warnings=(*origin, *report.warnings)
    )


def _sharpe(ratio: float | None, trades: int) -> str:
    return _or_dash(ratio, ".1f") if trades >= FEWEST_TRADES else "too few trades"


def verdict_lines(headline: str, checks: Sequence[Check], summary: Summary) -> list[str]:
    """Return the verdict, each failed condition as found and asked, the table, and the warnings.

    Args:
        headline: The verdict in words.
        checks: Every condition; none where there was nothing to judge.
        summary: The version in numbers.
    """
    held, unjudged = (sum(check.passed is how for check in checks) for how in (True, None))
    rest = f", {unjudged} not run" if unjudged else ""
    count = f" {held} of {len(checks)} conditions hold{rest}." if checks else ""
    failed = [f"{check.name} {check.found}, asked {check.wanted}" for check in checks if check.passed is False]
    marks = [f"  {'failed:' if number == 0 else '':<7} {line}" for number, line in enumerate(failed)]
    warned = [f"  ! {warning}" for warning in summary.warnings]
    return [f"{headline}{count}", *marks, "", *_table(summary), *warned]


def _rows(summary: Summary) -> list[tuple[str, list[str]]]:
    return [
        ("net return", [_percent(side.net_return, "+,.1f") for side in summary.sides]),
        ("Sharpe ratio", [side.sharpe for side in summary.sides]),
        ("max drawdown", [_percent(side.max_drawdown) for side in summary.sides]),
        ("closed trades", [_or_dash(side.trades, ",d") for side in summary.sides]),
        ("log-loss", [_or_dash(side.log_loss, ".4f") for side in summary.sides]),
        ("direction right", [_percent(side.direction) for side in summary.sides]),
        ("edge of a move", [_or_dash(side.edge_bp, "+.2f", " bp") for side in summary.sides]),
    ]


def _table(summary: Summary) -> list[str]:
    rows = [(f"{summary.days} unseen days", [side.name for side in summary.sides]), *_rows(summary)]
    named = max(len(name) for name, _ in rows)
    wide = [max(len(cells[column]) for _, cells in rows) for column in range(len(summary.sides))]
    return [
        f"  {name:<{named}}" + "".join(f"   {cell:>{width}}" for cell, width in zip(cells, wide, strict=True))
        for name, cells in rows
    ]


def _percent(share: float | None, shape: str = ".1f") -> str:
    return _DASH if share is None else f"{100 * share:{shape}} %"


def _or_dash(value: float | None, shape: str, unit: str = "") -> str:
    return _DASH if value is None else f"{value:{shape}}{unit}"
