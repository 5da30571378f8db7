"""What a person reads at the end of a run: promoted or not and why, and the model beside what it had to beat."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.schema import Market, VersionRef, sandbox_source
from storage.trials import Origin
from tasks.champion.manifest import Manifest, Summary
from tasks.champion.promotion import Check, Judgement
from tasks.champion.vol_verdict import vol_forecast_line
from tasks.execution.comparison_rows import ComparisonRow
from tasks.execution.fee_schedule import costs_text
from tasks.execution.track_record import FEWEST_TRADES
from tasks.market.synthetic import SyntheticMarket, description
from tasks.strategy.baseline_comparison import MODEL, BaselineComparison
from tasks.strategy.funding_record import funding_record
from tasks.strategy.out_of_sample import Evaluation
from tasks.strategy.recipe import Recipe

_USUAL_SOURCE = sandbox_source(description(SyntheticMarket()))
"""Of the market that is made up where nobody asks for another: what `make paper` trades."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a retrain came to.

    Attributes:
        champion: The champion afterwards: a version, or "flat".
        already: Whether the version was the champion before it was judged; no condition was asked for then.
    """

    version: VersionRef
    manifest: Manifest
    judged: Judgement
    champion: str
    report: str
    already: bool = False

    @property
    def promoted(self) -> bool:
        """Whether it is the champion now."""
        return self.champion == self.version.version

    @property
    def decision(self) -> str:
        """What was decided, one line."""
        if self.already:
            return "champion already"
        return f"promoted over {self.judged.champion}" if self.promoted else f"kept {self.judged.champion}"

    @property
    def headline(self) -> str:
        """The same in words for whoever started the run."""
        if self.promoted:
            return f"PROMOTED - it {'has been the champion already' if self.already else 'is the champion now'}."
        kept = "no position is taken" if self.champion == "flat" else f"the champion stays {self.champion}"
        return f"NOT PROMOTED - {kept}."

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every condition of the promotion rule that was asked for."""
        return () if self.already else self.judged.checks

    @property
    def reason(self) -> str:
        """What was decided and why, one line."""
        return "; failed: ".join(filter(None, (self.decision, ", ".join(self.failed))))

    @property
    def failed(self) -> tuple[str, ...]:
        """The conditions that failed."""
        return () if self.already else self.judged.failed

    def rows(self) -> list[tuple[str, str]]:
        """Return name and value of what the page of a run shows; a line a reason, for it cuts off long ones."""
        return [
            ("decision", self.decision),
            *(("failed", name) for name in self.failed),
            *model_lines(self.manifest.summary),
            ("volatility verdict", vol_forecast_line(self.manifest.risk)),
            ("version", str(self.version)),
        ]

    def text(self, facts: Sequence[tuple[str, str]] = ()) -> str:
        """Return everything that a terminal shows of it, the verdict first and what to do next last.

        `facts` are further lines at the end, name and value.
        """
        report = self.report if "://" in self.report else Path(self.report).absolute().as_uri()
        rows = [
            ("report", report),
            ("version", str(self.version)),
            *facts,
            *zip(("next", ""), self._next(), strict=False),
        ]
        closing = [f"  {name:<7}  {value}" for name, value in rows]
        return "\n".join([*verdict_lines(self.headline, self.checks, self.manifest), *closing])

    def _next(self) -> Iterator[str]:
        """Yield what one may do next, a command each."""
        if self.manifest.origin != "synthetic":
            yield "retrained and judged daily, in a browser: make ui EXCHANGE=bybit"
            return
        if self.promoted and self.version.source == _USUAL_SOURCE and self.manifest.market == Market():
            yield "let it trade on paper: make paper"
        yield "on Bybit's data, no key: make run EXCHANGE=bybit START=2025-01-01"


def summarise(recipe: Recipe, evaluation: Evaluation, comparison: BaselineComparison, origin: Origin) -> Summary:
    """Return a version in a few numbers."""
    names = (MODEL, comparison.best_baseline.name, evaluation.money.buy_and_hold.name)
    return Summary(
        days=evaluation.money.model.metrics.days,
        lines=tuple(line for name in names if (line := comparison.named(name))),
        sharpe_low=evaluation.record.low,
        sharpe_high=evaluation.record.high,
        edge_bp=evaluation.skill.edge_bp,
        warnings=tuple(_warnings(recipe, evaluation, origin)),
    )


def _warnings(recipe: Recipe, evaluation: Evaluation, origin: Origin) -> Iterator[str]:
    if free := recipe.costs.free_costs():
        yield f"No {' and no '.join(free)} is charged: the result is not net of costs."
    funding = funding_record(evaluation.samples.dataset, evaluation.unseen, recipe.costs, origin)
    if recipe.costs.funding and not funding.is_whole:
        said = f"The funding rate is known of {funding} in the unseen time: at the others none was paid or received"
        yield f"{said}; run ingest, or for a file of candles name that of its rates (--funding)."
    if looser := recipe.asks_less():
        yield f"The promotion rule asks for less than the default: {', '.join(looser)}; mode live refuses it."
    if evaluation.samples.is_listing:
        days = evaluation.money.model.metrics.days
        yield (
            f"New listing: no bar of it taught its network, which learned from other markets; its own {days:.1f} days "
            "are too few to judge by, so the conditions are asked of markets that such networks never saw."
        )
    if recipe.refit:
        yield "The published weights were refit up to the last bar; the verdict belongs to the recipe, not to them."


def verdict_lines(headline: str, checks: Sequence[Check], manifest: Manifest) -> list[str]:
    """Return the verdict, each failed condition as found and asked, the table, the volatility verdict, the warnings."""
    held, unjudged = (sum(check.passed is how for check in checks) for how in (True, None))
    rest = f", {unjudged} not run" if unjudged else ""
    count = f" {held} of {len(checks)} conditions hold{rest}." if checks else ""
    failed = [f"{check.name} {check.found}, asked {check.wanted}" for check in checks if check.passed is False]
    marks = [f"  {'failed:' if number == 0 else '':<7} {line}" for number, line in enumerate(failed)]
    origin = {
        "synthetic": ["synthetic market: says nothing about a real one"],
        "replayed": [f"replay of {manifest.origin_detail}: a champion here is none on Bybit"],
        "exchange": [],
    }[manifest.origin]
    warned = [f"  ! {warning}" for warning in (*origin, *manifest.summary.warnings)]
    said = [
        f"  costs: {costs_text(manifest.recipe.costs, manifest.recipe.fees)}",
        f"  apart from promotion: the volatility verdict {vol_forecast_line(manifest.risk)}",
    ]
    return [f"{headline}{count}", *marks, "", *_table(manifest.summary), *said, *warned]


def model_lines(summary: Summary) -> list[tuple[str, str]]:
    """Return name and value of every number of the model, written out."""
    return [(name, cells[0]) for name, cells in _rows(summary)]


def _rows(summary: Summary) -> list[tuple[str, list[str]]]:
    def each(shown: Callable[[ComparisonRow], str]) -> list[str]:
        return [shown(line) for line in summary.lines]

    def sharpe(line: ComparisonRow) -> str:
        if line.log_loss is not None and (line.num_trades or 0) < FEWEST_TRADES:
            return "too few trades"
        of_the_model = line.name == MODEL and summary.sharpe_low is not None
        interval = f" ({summary.sharpe_low:.1f} to {summary.sharpe_high:.1f})" if of_the_model else ""
        return _or_dash(line.sharpe_ratio, ".1f") + interval

    return [
        ("net return", each(lambda line: _percent(line.total_return, "+,.1f"))),
        ("Sharpe ratio", each(sharpe)),
        ("max drawdown", each(lambda line: _percent(line.max_drawdown))),
        ("closed trades", each(lambda line: _or_dash(line.num_trades, ",d"))),
        ("log-loss", each(lambda line: _or_dash(line.log_loss, ".4f"))),
        ("direction right", each(lambda line: _percent(line.direction))),
        ("edge of a move", [_or_dash(summary.edge_bp, "+.2f", " bp"), *["-"] * (len(summary.lines) - 1)]),
    ]


def _table(summary: Summary) -> list[str]:
    rows = [
        (f"{summary.days:.0f} unseen days", [line.name.removeprefix("this ") for line in summary.lines]),
        *_rows(summary),
    ]
    named = max(len(name) for name, _ in rows)
    wide = [max(len(cells[column]) for _, cells in rows) for column in range(len(summary.lines))]
    return [
        f"  {name:<{named}}" + "".join(f"   {cell:>{width}}" for cell, width in zip(cells, wide, strict=True))
        for name, cells in rows
    ]


def _percent(share: float | None, shape: str = ".1f") -> str:
    return _or_dash(None if share is None else 100 * share, shape, " %")


def _or_dash(value: float | None, shape: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{shape}}{unit}".replace("-", "\N{MINUS SIGN}")
