"""One HTML page a version, and a short Markdown summary of it: the verdict first, then why, then the evidence.

The page is one file without any request to elsewhere. Its own policy forbids them, and every script but the two that
it names by their hash. Templates escape whatever they are given; the wording is fixed in them, so that every version is
spoken of in the same measured terms.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache

from jinja2 import Environment
from markupsafe import Markup
from matplotlib.figure import Figure

from storage.schema import CLASSES
from storage.written import Style, or_dash, written
from tasks.champion.vol_verdict import vol_forecast_holds
from tasks.execution.fee_schedule import costs_text
from tasks.execution.metrics import Metrics
from tasks.execution.vol_skill import LEVELS
from tasks.reporting import figures
from tasks.reporting.canvas import MARKDOWN, NARROW, WIDE, png_uri, svg
from tasks.reporting.evidence import flat_cells, highlights, random_note, record_measures, skill_measures, trials_text
from tasks.reporting.explorer import explorer_data, library
from tasks.reporting.headline import headline_rows
from tasks.reporting.markup import Grid, grid, interval, markdown_text, pair_grid, row_grid
from tasks.reporting.report_data import ReportData
from tasks.reporting.templating import own_file, script_hash, template_environment
from tasks.reporting.track import days_of, largest_month, monthly_returns, trade_rows, used_months, worst_drawdowns
from tasks.runs.cost import StageCost

CAVEAT = "A backtest measures the past, at the costs and fills stated here. It is no forecast and no advice."

METRICS: dict[str, tuple[str, Style]] = {
    "total_return": ("total return, net", "signed share"),
    "gross_return": ("before costs", "signed share"),
    "cost_drag": ("costs, share of the capital", "share"),
    "sharpe_ratio": ("Sharpe ratio (UTC days, √365)", "ratio"),
    "sortino_ratio": ("Sortino ratio (UTC days, √365)", "ratio"),
    "max_drawdown": ("largest drawdown", "share"),
    "num_trades": ("round trips", "count"),
    "win_rate": ("win rate, net", "share"),
    "profit_factor": ("profit factor, net", "ratio"),
    "expectancy_bp": ("mean per round trip, net, of the position", "bp"),
    "break_even_cost_per_side": ("break-even cost per side", "share as bp"),
    "turnover_per_day": ("turnover per day, × equity", "ratio"),
    "exposure": ("bars with a position", "share"),
    "mean_weight": ("mean position, share of equity", "share"),
    "mean_hold_bars": ("mean hold, bars", "ratio"),
    "max_drawdown_bars": ("longest time below a high, bars", "count"),
    "sharpe_per_bar": ("Sharpe ratio (bars, √bars a year)", "ratio"),
    "sortino_per_bar": ("Sortino ratio (bars, √bars a year)", "ratio"),
    "cagr": ("growth a year (from 90 days on)", "signed share"),
    "calmar": ("Calmar ratio (from 90 days on)", "ratio"),
    "fees_paid": ("fees paid", "money"),
    "slippage_paid": ("slippage paid", "money"),
    "funding_paid": ("funding paid", "money"),
    "cost_share_of_gross": ("costs, share of the gross result", "share"),
    "days": ("days", "ratio"),
}
_MAIN_METRICS, _OTHER_METRICS = list(METRICS)[:13], list(METRICS)[13:]  # the latter are folded away
_FEWEST_TO_SPREAD = 10  # days or trades: fewer have no distribution to look at

_SECTIONS = {
    "conditions": "Why: the promotion rule",
    "baselines": "Beside the baselines",
    "money": "Money, net of costs",
    "track": "Month by month",
    "skill": "Skill of the predictions",
    "risk": "Volatility forecast",
    "beside": "Beside the version before",
    "paper": "On paper",
    "claims": "Claimed and measured",
    "speed": "Speed",
    "candles": "Candles",
    "training": "Folds and training",
    "origin": "How to get the same numbers",
    "glossary": "Words",
}
"""Template -> its title, in the order of the page; one that has nothing to say is left out."""


def render_report(data: ReportData) -> str:
    """Return the report as one self-contained page; equal data give equal text."""
    environment = _environment()
    manifest = data.manifest
    luck, others = manifest.judgement.numbers.luck, manifest.recipe.promotion.other_trials
    said = _verdict(data) | {
        "pictures": _pictures(data),
        "latencies": (data.speed.model, *data.speed.rows),
        "metrics": [_metrics_grid(data.metrics, keys) for keys in (_MAIN_METRICS, _OTHER_METRICS)],
        "record": record_measures(data.record, luck, others),
        "trials": trials_text(luck, others),
        "skill": skill_measures(data.skill),
        "vol_forecast_holds": vol_forecast_holds(manifest.risk),
        "levels": LEVELS,
        "costs_text": costs_text(manifest.recipe.costs, manifest.recipe.fees),
        "claims": list(headline_rows(data)),
        "random_note": random_note(data.comparison),
        "configuration": {name: flat_cells(asdict(part)) for name, part in manifest.recipe.parts().items()},
        "spent": [
            (one.stage, f"{one.wall_s:,.1f} s", f"{one.cpu_s:,.1f} s")
            for one in (*data.spent.stages, StageCost(stage="all", wall_s=data.spent.wall_s, cpu_s=data.spent.cpu_s))
        ],
        "provenance": {
            "dataset": manifest.dataset,
            **({"pool": ", ".join(manifest.recipe.pool)} if manifest.recipe.pool else {}),
            "code": manifest.code[:16],
            "seed": manifest.recipe.fit_config.seed,
            **data.speed.machine,
        },
    }
    bodies = {name: environment.get_template(f"{name}.html").render(said).strip() for name in _SECTIONS}
    sections = [(name, title, Markup(bodies[name])) for name, title in _SECTIONS.items() if bodies[name]]  # noqa: S704 - rendered above
    sheet, script = (own_file(environment, name) for name in ("report.css", "report.js"))
    return environment.get_template("page.html").render(
        said,
        sections=sections,
        sheet=sheet,
        script=script,
        script_hash=script_hash(script.encode()),
        explorer=explorer_data(data.equity),
        library=library(),
    )


def summary_markdown(data: ReportData) -> str:
    """Return the verdict, its conditions, the head line's numbers and one picture as Markdown, below 200 kB."""
    picture = png_uri(figures.draw_equity(data.equity, data.title_label, MARKDOWN))
    return _environment().get_template("summary.md").render(_verdict(data), picture=picture)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = template_environment()
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # in the order given
    environment.filters |= {
        "written": written, "or_dash": or_dash, "interval": interval, "md": markdown_text,
        "used_months": used_months, "largest_month": largest_month,
    }  # fmt: skip
    environment.globals |= {
        "grid": grid, "row_grid": row_grid, "pair_grid": pair_grid, "classes": CLASSES,
        "monthly_returns": monthly_returns, "worst_drawdowns": worst_drawdowns, "trade_rows": trade_rows,
    }  # fmt: skip
    return environment


def _verdict(data: ReportData) -> dict[str, object]:
    """Return what page and summary both say first."""
    judgement = data.manifest.judgement
    champion, flat = judgement.champion, judgement.champion == "flat"
    kept = "Not promoted: no position is taken" if flat else f"Not promoted: {champion} stays in force"
    replaced = "flat (no position)" if flat else champion
    return {
        "data": data,
        "manifest": data.manifest,
        "judgement": judgement,
        "headline": f"Promoted: meets every condition and replaces {replaced}" if judgement.passed else kept,
        "because": f"{sum(c.passed is True for c in judgement.checks)} of {len(judgement.checks)} conditions hold.",
        "highlights": highlights(data),
        "caveat": CAVEAT,
    }


def _pictures(data: ReportData) -> dict[str, Markup]:
    """Return every static chart by its name, drawn for a desktop and a phone; what has nothing to draw is empty."""
    drawn = {}
    for name, (alt, kinds, draw) in _PICTURES.items():
        drawings = {kind: draw(data, data.title_label, width) for kind, width in kinds.items()}
        markup = Markup("").join(
            Markup('<div class="{}">{}</div>').format(kind, Markup(svg(figure, f"{name}-{kind}")))  # noqa: S704
            for kind, figure in drawings.items()
            if figure
        )
        drawn[name] = markup and Markup('<figure role="img" aria-label="{}">{}</figure>').format(alt, markup)
    return drawn


_BOTH, _HALF = {"desk": WIDE, "phone": NARROW}, {"half": NARROW}
_PICTURES: dict[str, tuple[str, dict[str, int], Callable[[ReportData, str, int], Figure | None]]] = {
    "equity": (
        "Equity and drawdown beside the baselines, buy and hold and no position", _BOTH,
        lambda data, label, width: figures.draw_equity(data.equity, label, width),
    ),
    "rolling": (
        "Sharpe ratio of the last days", _BOTH,
        lambda data, label, width: figures.draw_rolling(data.equity, label, width),
    ),
    "contenders": (
        "The model's lead over each forecaster", _BOTH,
        lambda data, label, width: figures.draw_comparison(data.comparison.table, label, width),
    ),
    "importance": (
        "What each input is worth to the forecast", _BOTH,
        lambda data, label, width: figures.draw_importance(data.importance, label, width),
    ),
    "steps": (
        "Histogram of single predictions", _BOTH,
        lambda data, label, width: figures.draw_step(data.speed, label, width),
    ),
    "folds": (
        "When each fold trains and tests", _BOTH,
        lambda data, label, width: figures.draw_fold(data.folds, label, width),
    ),
    "training": (
        "Training and validation loss by fold", _BOTH,
        lambda data, label, width: figures.draw_training(data.training, label, width),
    ),
    "costs": (
        "Total return at other costs", _HALF,
        lambda data, label, _: figures.draw_cost(data.costs, data.metrics["model"].break_even_cost_per_side, label),
    ),
    "days": ("How the days ended", _HALF, lambda data, label, _: _days_figure(data, label)),
    "trades": ("How the round trips ended", _HALF, lambda data, label, _: _trades_figure(data, label)),
    "reliability": (
        "Confidence against the share that was right", _HALF,
        lambda data, label, _: figures.draw_reliability(data.skill, label),
    ),
    "coverage": (
        "Accuracy on the most confident predictions", _HALF,
        lambda data, label, _: figures.draw_coverage(data.skill, label),
    ),
}  # fmt: skip
"""Chart -> what it shows, where it is shown how wide, and who draws it."""


def _days_figure(data: ReportData, label: str) -> Figure | None:
    days = days_of(data.equity, data.equity.model)
    days = days[days != 0.0]
    if len(days) < _FEWEST_TO_SPREAD:
        return None
    return figures.draw_distribution(100.0 * days, f"Net result of {len(days):,} days with a position", "%", label)


def _trades_figure(data: ReportData, label: str) -> Figure | None:
    trades = data.equity.trades
    if len(trades) < _FEWEST_TO_SPREAD:
        return None
    earned = 1e4 * trades.net / trades.entry_notional
    return figures.draw_distribution(earned, f"Net result of {len(trades):,} round trips", "bp", label)


def _metrics_grid(sides: Mapping[str, Metrics], keys: Sequence[str]) -> Grid:
    rows = []
    for key in keys:
        name, style = METRICS[key]
        rows.append([name, *(written(getattr(side, key), style) for side in sides.values())])
    return grid(["", *sides], rows)
