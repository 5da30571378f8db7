"""One HTML page a version, and a short Markdown summary of it: the verdict first, then why, then the evidence.

The page is one file without script and without any request to elsewhere; its own policy forbids both. The wording is
fixed here, so that every version is spoken of in the same measured terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from matplotlib.figure import Figure

from tasks.reporting.canvas import NARROW, WIDE, png, svg
from tasks.reporting.figures import (
    class_figure,
    confusion_figure,
    cost_figure,
    coverage_figure,
    equity_figure,
    fold_figure,
    latency_figure,
    reliability_figure,
    rivals_figure,
    step_figure,
    training_figure,
)
from tasks.reporting.markup import DASH, data_uri, heading, interval, pairs, picture, row_table, table, text, written
from tasks.reporting.page_style import CSS
from tasks.reporting.report_data import Cell, Condition, Measure, ReportData, Style

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
    "expectancy_bp": ("mean per round trip, net", "bp"),
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
_SUMMARY_WIDTH = 760  # points: what a Markdown view shows without shrinking it
_MAIN_METRICS = 13  # the first ones; the rest is folded away


def render_report(data: ReportData) -> str:
    """Return the report as one self-contained page; equal data give equal text."""
    title = f"{data.title_label} · {data.version}"
    sections = [(name, title_, body) for name, title_, build in _SECTIONS if (body := "".join(build(data)))]
    links = "".join(f'<a href="#{name}">{text(title_)}</a>' for name, title_, _ in sections)
    source = "" if data.origin == "exchange" else f'<span class="source">{text(data.source_label)}</span>'
    parts = [f'<section id="{name}"><h2>{text(title_)}{source}</h2>{body}</section>' for name, title_, body in sections]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{text(title)}</title><style>{CSS}</style></head><body>"
        f"{_header(data)}<main>{_verdict(data)}{_highlights(data)}<nav>{links}</nav>{''.join(parts)}</main>"
        f"<footer><p>{text(CAVEAT)}</p></footer></body></html>\n"
    )


def summary_markdown(data: ReportData) -> str:
    """Return the verdict, its conditions, the head line's numbers and one picture as Markdown, below 200 kB."""
    lines = [f"# {_md(_headline(data))}", f"**{_md(data.title_label)}** · {_md(data.version)}", _md(_because(data))]
    lines += [f"> **{_md(warning)}**" for warning in data.warnings]
    if data.highlights:
        rows = [
            f"| {_md(m.name)} | {_md(written(m.value, m.style))} | {_md(interval(m) or m.note)} |"
            for m in data.highlights
        ]
        lines.append("\n".join(["| number | value | 95 % interval or note |", "| --- | ---: | --- |", *rows]))
    if data.verdict.conditions:
        rows = [
            f"| {_md(c.name)} | {_outcome(c)} | {_md(c.found)} | {_md(c.wanted)} |" for c in data.verdict.conditions
        ]
        lines.append("\n".join(["| condition | outcome | found | asked |", "| --- | --- | ---: | ---: |", *rows]))
    if data.equity is not None:
        uri = data_uri(png(equity_figure(data.equity, data.title_label, _SUMMARY_WIDTH)), "png")
        lines.append(f"![Equity and drawdown on unseen bars, net of costs]({uri})")
    lines.append(f"_{CAVEAT}_")
    return "\n\n".join(lines) + "\n"


def _header(data: ReportData) -> str:
    detail = f"<p>{text(data.origin_detail)}</p>" if data.origin_detail else ""
    return (
        f'<header><p class="eyebrow">{text(data.source_label)}</p><h1>{text(data.market)}</h1>{detail}'
        f'<p class="version">version {text(data.version)} · {text(data.created)}</p></header>'
    )


def _verdict(data: ReportData) -> str:
    notes = "".join(f"<li>{text(note)}</li>" for note in data.verdict.notes)
    warnings = "".join(f'<p class="warning">{text(warning)}</p>' for warning in data.warnings)
    return (
        f'<section class="verdict {data.verdict.decision}" id="verdict"><p class="eyebrow">Verdict</p>'
        f"<h2>{text(_headline(data))}</h2><p>{text(_because(data))}</p>{f'<ul>{notes}</ul>' if notes else ''}"
        f'<p class="caveat">{text(CAVEAT)}</p></section>{warnings}'
    )


def _headline(data: ReportData) -> str:
    champion = data.verdict.champion
    name = "flat (no position)" if champion == "flat" else champion
    return {
        "promoted": f"Meets every condition: it may replace {name}",
        "kept": f"Not promoted: the champion stays {name}",
        "measured": "Measured; nothing was to be decided",
    }[data.verdict.decision]


def _because(data: ReportData) -> str:
    conditions = data.verdict.conditions
    if not conditions:
        return "No conditions were judged."
    held = sum(condition.passed is True for condition in conditions)
    failed = "; ".join(condition.name for condition in conditions if condition.passed is False)
    unjudged = "; ".join(condition.name for condition in conditions if condition.passed is None)
    text_ = f"{held} of {len(conditions)} conditions hold."
    text_ += f" Not met: {failed}." if failed else ""
    return text_ + (f" Not judged: {unjudged}." if unjudged else "")


def _highlights(data: ReportData) -> str:
    cards = "".join(
        f'<div><p class="name">{text(m.name)}</p><p class="value">{text(written(m.value, m.style))}</p>'
        f'<p class="note">{text(interval(m))}</p><p class="note">{text(m.note)}</p></div>'
        for m in data.highlights
    )
    return f'<div class="cards">{cards}</div>' if cards else ""


def _conditions(data: ReportData) -> Iterator[str]:
    if data.verdict.conditions:
        yield "<p>The champion changes only if every condition holds; one that fails keeps it.</p>"
        rows = "".join(
            f'<tr><td><span class="chip {_outcome(c)}">{_outcome(c)}</span></td><td>{text(c.name)}</td>'
            f"<td>{text(c.found)}</td><td>{text(c.wanted)}</td></tr>"
            for c in data.verdict.conditions
        )
        header = "<thead><tr><th></th><th>condition</th><th>found</th><th>asked</th></tr></thead>"
        yield f'<table class="conditions">{header}<tbody>{rows}</tbody></table>'


def _money(data: ReportData) -> Iterator[str]:
    label = data.title_label
    if data.equity is not None:
        equity = data.equity
        yield (
            "<p>No bar had been seen by the model that predicted it. Decided at the close, filled at the next open. "
            "At a dotted line the next fold's model takes over.</p>"
        )
        yield _both(lambda width: equity_figure(equity, label, width), "Equity and drawdown against buy and hold")
    if data.metrics:
        known = [key for key in METRICS if any(key in side for side in data.metrics.values())]
        other = sorted({key for side in data.metrics.values() for key in side} - set(METRICS))
        shown = [key for key in known if key in list(METRICS)[:_MAIN_METRICS]]
        rest = [key for key in [*known, *other] if key not in shown]
        yield _metrics_table(data, shown)
        yield _folded("All other metrics", _metrics_table(data, rest)) if rest else ""
    if data.costs:
        rows = [
            [
                f"{point.cost_bp:g}{', assumed' if point.assumed else ''}",
                written(point.total_return, "signed share"),
                written(point.sharpe_ratio, "ratio"),
                point.num_trades,
                written(point.repriced_return, "signed share"),
            ]
            for point in data.costs
        ]
        marked = frozenset(place for place, point in enumerate(data.costs) if point.assumed)
        header = ["cost per side, bp", "total return, net", "Sharpe ratio", "round trips", "same positions re-priced"]
        swept = table(header, rows, marked=marked)
        also = f"<h3>What if</h3>{row_table(data.stress)}" if data.stress else ""
        figure = picture(svg(cost_figure(data.costs, data.break_even_bp, label)), None, "Total return at other costs")
        yield f'<div class="columns">{figure}<div><h3>At other costs, decided again</h3>{swept}{also}</div></div>'
    elif data.stress:
        yield f"<h3>What if</h3>{row_table(data.stress)}"
    if data.record:
        yield "<h3>What the days prove</h3>" + _measures(data.record)
    if data.slices:
        yield "<h3>When it came about</h3>" + row_table(data.slices)
    if data.trades:
        yield _folded(f"Round trips: {len(data.trades):,} of {data.trades_total:,}", row_table(data.trades))


def _rivals(data: ReportData) -> Iterator[str]:
    if data.rivals:
        lines = data.rivals
        yield (
            "<p>Everyone on the same unseen bars, at the same costs; whoever forecasts trades by the model's own rule. "
            "A lead is the other's log-loss less the model's, p the chance of such a lead if the model were no better "
            "(Diebold-Mariano, overlap included).</p>"
        )
        yield _both(
            lambda width: rivals_figure(lines, data.title_label, width), "The model's lead over each forecaster"
        )
        header = ["", "log-loss", "the model's lead", "p", "accuracy", "net return", "Sharpe ratio", "round trips"]
        rows: list[list[Cell]] = [
            [
                line.name,
                _or_dash(line.log_loss, "nat"),
                _or_dash(line.lead, "signed nat"),
                _chance(line.p_value),
                _or_dash(line.accuracy, "share"),
                written(line.total_return, "signed share"),
                written(line.sharpe_ratio, "ratio"),
                DASH if line.num_trades is None else line.num_trades,
            ]
            for line in lines
        ]
        yield table(header, rows, marked=frozenset({0}))
        yield f"<p>{text(data.rivals_note)}</p>" if data.rivals_note else ""


def _skill(data: ReportData) -> Iterator[str]:
    label = data.title_label
    if data.skill:
        yield "<p>Probabilities on unseen bars, against labels that overlap: intervals count independent ones only.</p>"
        yield _measures(data.skill)
    shown: list[tuple[Figure, str]] = []
    notes: list[str] = []
    if data.reliability is not None:
        ece, perfect = (written(value, "share") for value in (data.reliability.ece, data.reliability.ece_perfect))
        shown.append((reliability_figure(data.reliability, label), "Confidence against the share that was right"))
        notes.append(
            "Calibration: on the dashed line, a confidence is right as often as it says. The calibration error (ECE) "
            f"is {ece}; a perfectly calibrated model would show {perfect} on as many labels."
        )
    if data.confusion is not None:
        shown.append((confusion_figure(data.confusion, label), "True class against predicted class"))
        notes.append("Classes: a row tells how labels of one true class were predicted; the diagonal was right.")
    if data.coverage is not None:
        shown.append((coverage_figure(data.coverage, label), "Accuracy on the most confident predictions"))
        notes.append(
            "Confidence: accuracy on the most confident share of the bars; a flat line is no usable confidence."
        )
    if data.class_mix:
        shown.append((class_figure(data.class_mix, label), "Share of each class"))
        notes.append("Mix: accuracy says little without it, since always naming the largest class scores its share.")
    if shown:
        figures = "".join(picture(svg(figure), None, alt) for figure, alt in shown)
        reading = "".join(f"<p>{text(note)}</p>" for note in notes)
        yield f'<div class="columns">{figures}<div><h3>How to read these</h3>{reading}</div></div>'


def _headline_table(data: ReportData) -> Iterator[str]:
    if data.headline:
        yield (
            "<p>The text that this model comes from states these numbers and names no data, period, cost or machine. "
            "Beside them: what this run counted and measured, with the standard convolution trained alike.</p>"
        )
        yield row_table(data.headline)


def _speed(data: ReportData) -> Iterator[str]:
    if data.latency:
        rows = data.latency
        yield (
            "<p>Multiply-adds (MACs) are counted, times are measured: fewer of the former need not mean less of the "
            "latter.</p>"
        )
        yield _both(lambda width: latency_figure(rows, data.title_label, width), "Time per prediction")
        times = data.step_times
        if times is not None:
            yield _both(lambda width: step_figure(times, data.title_label, width), "Histogram of single predictions")
        header = ["network", "runtime", "parameters", "MACs", "p50", "p95", "p99"]
        yield table(
            header,
            [
                [r.name, r.runtime, r.parameters, r.macs, *(written(us, "us") for us in (r.p50_us, r.p95_us, r.p99_us))]
                for r in rows
            ],
        )


def _candles(data: ReportData) -> Iterator[str]:
    if data.data_quality:
        yield "<p>Rows that break the schema are set aside with the reason; missing bars are recorded, not filled.</p>"
        yield row_table(data.data_quality)


def _training(data: ReportData) -> Iterator[str]:
    if data.folds:
        yield "<p>Test bars are always later than all that their model was trained and tuned on.</p>"
        dates = row_table(data.folds)
        rows = data.folds
        drawn = _both(lambda width: fold_figure(rows, data.title_label, width), "When each fold trains and tests")
        yield drawn + _folded("The folds as a table of dates", dates) if drawn else dates
    if data.training:
        curves = data.training
        yield _both(
            lambda width: training_figure(curves, data.title_label, width), "Training and validation loss by fold"
        )


def _origin(data: ReportData) -> Iterator[str]:
    if data.provenance:
        yield f"<h3>Provenance</h3>{pairs(data.provenance)}"
    if data.config:
        yield _folded(
            "Configuration",
            "".join(f"<h3>{text(heading(name))}</h3>{pairs(part)}" for name, part in data.config.items()),
        )
    if data.versions:
        yield _folded("Library versions", pairs(data.versions))


_SECTIONS: tuple[tuple[str, str, Callable[[ReportData], Iterator[str]]], ...] = (
    ("why", "Why: the promotion rule", _conditions),
    ("baselines", "Beside the baselines", _rivals),
    ("money", "Money, net of costs", _money),
    ("skill", "Skill of the predictions", _skill),
    ("claims", "Claimed and measured", _headline_table),
    ("speed", "Speed", _speed),
    ("data", "Candles", _candles),
    ("training", "Folds and training", _training),
    ("origin", "How to get the same numbers", _origin),
)


def _both(draw: Callable[[int], Figure | None], alt: str) -> str:
    """Return a picture drawn for a desktop and for a phone, or nothing where there is nothing to draw."""
    wide, narrow = draw(WIDE), draw(NARROW)
    return picture(svg(wide), svg(narrow), alt) if wide and narrow else ""


def _measures(measures: Sequence[Measure]) -> str:
    rows = [[m.name, written(m.value, m.style), "; ".join(filter(None, (interval(m), m.note)))] for m in measures]
    return table(["measure", "value", "interval; beside"], rows)


def _chance(p_value: float | None) -> str:
    """Return a p-value; one that would round to 0 is said to be small, not impossible."""
    if p_value is None or not math.isfinite(p_value):
        return DASH
    return f"{p_value:.3f}" if p_value >= 0.0005 else "< 0.001"


def _or_dash(value: float | None, style: Style) -> str:
    return DASH if value is None else written(value, style)


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{text(title)}</summary>{body}</details>"


def _metrics_table(data: ReportData, keys: list[str]) -> str:
    rows: list[list[Cell]] = []
    for key in keys:
        name, style = METRICS.get(key, (heading(key), None))
        values = [side.get(key) for side in data.metrics.values()]
        rows.append([name, *(_metric(value, style) for value in values)])
    return table(["", *data.metrics], rows)


def _metric(value: Cell, style: Style | None) -> Cell:
    if style is None or isinstance(value, str):
        return value
    return written(value, style)


def _outcome(condition: Condition) -> str:
    return {True: "pass", False: "fail", None: "open"}[condition.passed]


def _md(value: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    line = " ".join(text(value).split())
    for mark, escaped in (("'", "&#x27;"), ('"', "&quot;")):  # Markdown shows these two as they are written
        line = line.replace(escaped, mark)
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()#+!|~$" else letter for letter in line)
