"""The page of all markets of a source, one row each, and the same in few columns for the page of a run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC

from storage.schema import ConfigError, Market, VersionRef
from storage.written import DASH, Row, written
from tasks.champion.promotion import Check, is_below
from tasks.execution.false_discovery import RATE
from tasks.reporting.panel import MarketFacts, MarketRow, Panel
from tasks.reporting.source_names import ribbon, source_label
from tasks.reporting.templating import own_file, script_hash, template_environment

_COLUMNS = (
    ("market", ""), ("unseen bars", "n"), ("folds", "n"), ("trading", ""), ("lead over the best baseline", "n"),
    ("direction edge", "n"), ("risk", ""), ("risk calibration", "n"), ("age", "n"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """Words, a number or a text to sort by, notes below; `chip` is pass or fail, `counts` marks what is no luck."""

    words: str
    sort: float | str | None = None
    notes: tuple[str, ...] = ()
    kind: str = ""
    chip: str = ""
    counts: bool = False


def render_panel(panel: Panel, link: Callable[[VersionRef], str]) -> str:
    """Return the page, which asks nobody for anything; equal panels give equal text.

    `link` returns where the report of a version is.
    """
    environment, (label, band) = template_environment(), _named(panel)
    environment.filters["holds"] = _holds
    sheet, script = (own_file(environment, name) for name in ("report.css", "panel.js"))
    facts = panel.facts
    return environment.get_template("panel.html").render(
        panel=panel,
        label=label,
        ribbon=band,
        now=f"{panel.now.astimezone(UTC):%Y-%m-%d %H:%M}",
        sheet=sheet,
        script=script,
        script_hash=script_hash(script.encode()),
        rate=RATE,
        leads_alone=sum(is_below(one.lead_p, RATE) for one in facts),
        directions_alone=sum(is_below(one.direction_p, RATE) for one in facts),
        columns=_COLUMNS,
        lines=[_line(row, panel, link) for row in panel.rows],
    )


def panel_table(panel: Panel) -> list[Row]:
    """Return one line a market, in three columns, for the page of a run."""
    return [
        {
            "market": _market(row),
            "verdicts": f"trading {_verdict(row.facts.manifest.judgement.checks)}, "
            f"risk {_verdict(row.facts.manifest.risk)}",
            "lead, direction edge": f"{_lead(row.facts)}, {written(row.facts.edge_bp, 'bp')}"
            f"{_mark(row.facts.direction_counts)}",
        }
        if row.facts
        else {"market": _market(row), "verdicts": f"can't be shown: {row.error}", "lead, direction edge": DASH}
        for row in panel.rows
    ]


def panel_line(panel: Panel) -> str:
    """Return what the panel comes to in one line."""
    return (
        f"{_named(panel)[0]}: of {len(panel.rows)} markets {panel.leads} lead by more than luck, {panel.directions} in "
        f"direction (false discovery rate {RATE:g})"
    )


def _named(panel: Panel) -> tuple[str, tuple[str, str]]:
    """Return the source as every title names it, and its ribbon: what sent the candles is known of a version only."""
    origin = panel.facts[0].manifest.origin if panel.facts else None
    if origin is None and panel.source.startswith("sandbox:"):
        return panel.source, ("SANDBOX", "recorded candles or a made-up market")
    return source_label(panel.source, origin or "exchange"), ribbon(panel.source, origin or "exchange")


def _line(row: MarketRow, panel: Panel, link: Callable[[VersionRef], str]) -> dict[str, object]:
    looks = f"{row.versions} version{'s' * (row.versions != 1)}, {row.trials} trial{'s' * (row.trials != 1)}"
    facts, (symbol, _, kind) = row.facts, _market(row).partition(" ")
    return {
        "sort": _market(row),
        "name": symbol,
        "notes": [*([kind] if kind else []), looks],
        "href": link(facts.ref) if facts else "",
        "error": row.error,
        "cells": list(_cells(facts, panel)) if facts else [],
    }


def _cells(facts: MarketFacts, panel: Panel) -> Iterator[_Cell]:
    manifest, baseline = facts.manifest, facts.baseline
    days = (panel.now - facts.made).total_seconds() / 86_400
    yield _Cell(
        words=written(facts.labels, "count"), sort=facts.labels, notes=(f"{manifest.summary.days:,.0f} days",), kind="n"
    )
    yield _Cell(words=str(facts.folds), sort=facts.folds, kind="n")
    yield _chip(manifest.judgement.checks)
    yield _Cell(
        words=DASH if baseline is None else written(baseline.lead, "signed nat"),
        sort=None if baseline is None else baseline.lead,
        notes=(baseline.name, _p_note(facts.lead_p, facts.lead_adjusted)) if baseline else ("none was rated",),
        kind="n",
        counts=facts.lead_counts,
    )
    spread = () if facts.edge_error_bp is None else (f"± {written(1.96 * facts.edge_error_bp, 'ratio')} bp",)
    yield _Cell(
        words=written(facts.edge_bp, "bp"),
        sort=facts.edge_bp,
        notes=(*spread, f"log-loss of the side: {_p_note(facts.direction_p, facts.direction_adjusted)}"),
        kind="n",
        counts=facts.direction_counts,
    )
    yield _chip(manifest.risk)
    yield _Cell(
        words=DASH if facts.vol_calibration_gap is None else f"off by {written(facts.vol_calibration_gap, 'ratio')}",
        sort=facts.vol_calibration_gap,
        kind="n",
    )
    yield _Cell(words=f"{days:,.1f} days", sort=days, notes=(f"{facts.made:%Y-%m-%d}",), kind="n")


def _chip(checks: Sequence[Check]) -> _Cell:
    met, holds = sum(check.passed is True for check in checks), _holds(checks)
    return _Cell(
        words="holds" if holds else "fails",
        sort=len(checks) - met,
        chip="pass" if holds else "fail",
        notes=(f"{met} of {len(checks)}",),
    )


def _p_note(p_value: float | None, adjusted: float) -> str:
    if p_value is None:
        return "no p-value"
    return f"p {written(p_value, 'p')}, adjusted {written(adjusted, 'p')}"


def _market(row: MarketRow) -> str:
    try:
        return str(Market.of_slug(row.name))
    except ConfigError:
        return row.name


def _holds(checks: Sequence[Check]) -> bool:
    return bool(checks) and all(check.passed for check in checks)


def _verdict(checks: Sequence[Check]) -> str:
    return "holds" if _holds(checks) else f"fails ({sum(check.passed is True for check in checks)} of {len(checks)})"


def _lead(facts: MarketFacts) -> str:
    if facts.baseline is None:
        return "no baseline"
    return f"{written(facts.baseline.lead, 'signed nat')}{_mark(facts.lead_counts)}"


def _mark(counts: bool) -> str:
    return " (counts)" if counts else ""
