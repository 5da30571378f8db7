"""Every market of a source beside the others: what the newest version of each says of itself, and what of it counts.

Who looks at many markets finds some that lead by chance. So a lead counts once it has been set right for how many
markets there are: every one that was looked at, whatever became of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from pydantic import ConfigDict, TypeAdapter, ValidationError

from storage.artifacts import ArtifactStore
from storage.bounds import Share
from storage.foreign import MOST_ROWS, OTHERWISE, parse_json, refusing
from storage.schema import ArtifactError, Source, VersionRef, one_line
from storage.trials import Candidate, Trial, TrialLog
from tasks.champion.manifest import Manifest
from tasks.execution.comparison_rows import ComparisonRow
from tasks.execution.false_discovery import RATE, adjusted_p_values
from tasks.execution.vol_skill import LEVELS

MOST_MARKETS = 1_000
"""Of a source, on one page: twice as many as Bybit lists perpetuals."""


@dataclass(frozen=True, kw_only=True)
class _Skill:
    """What is read of a version's backtest.json; see `tasks.execution.skill.Skill`."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    samples: Annotated[int, Ge(0), Le(MOST_ROWS)]
    direction_p_value: Share | None
    edge_bp: float | None
    edge_error_bp: float | None


@dataclass(frozen=True, kw_only=True)
class _Backtest:
    skill: _Skill


@dataclass(frozen=True, kw_only=True)
class _VolRecord:
    """What is read of its risk.json; see `tasks.strategy.vol_forecast.VolForecastRecord`."""

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    below: tuple[float, ...]


_BACKTEST, _VOL_RECORD = TypeAdapter(_Backtest), TypeAdapter(_VolRecord)


@dataclass(frozen=True, kw_only=True)
class MarketFacts:
    """What the newest version of a market says of itself, all on bars that it had not seen.

    Attributes:
        manifest: The verdicts on it, and who sent its candles.
        made: When, aware.
        labels: Unseen bars that have a label.
        folds: How many blocks they come in, each judged by a network of its own.
        baseline: The best baseline, and the model's lead over it; None where none was rated.
        direction_p: Chance of its skill in direction without any; None where undefined.
        edge_bp, edge_error_bp: Mean of what a move earned on the side that the model named, before costs, and its
            standard error, basis points; None without a move.
        vol_calibration_gap: Largest distance between the share of windows below a forecast quantile of volatility and
            its level; None where no volatility was forecast.
        lead_adjusted, direction_adjusted: p-values of lead and direction, set right for the number of markets.
    """

    ref: VersionRef
    manifest: Manifest
    made: datetime
    labels: int
    folds: int
    baseline: ComparisonRow | None
    direction_p: float | None
    edge_bp: float | None
    edge_error_bp: float | None
    vol_calibration_gap: float | None
    lead_adjusted: float = 1.0
    direction_adjusted: float = 1.0

    @property
    def lead_p(self) -> float | None:
        """Chance of its lead over the best baseline if it were no better; None where undefined."""
        return None if self.baseline is None else self.baseline.p_value

    @property
    def lead_counts(self) -> bool:
        """Whether its lead is more than many markets show by chance."""
        return self.lead_adjusted <= RATE

    @property
    def direction_counts(self) -> bool:
        """Whether its skill in direction is more than many markets show by chance."""
        return self.direction_adjusted <= RATE


@dataclass(frozen=True, kw_only=True)
class MarketRow:
    """One market.

    Attributes:
        name: Its slug.
        versions, trials, searched: How many versions are stored, strategies were tried on unseen bars, and networks
            were trained in searches.
        facts: Of its newest version; None where that can't be told.
        error: Why not, one line; empty where it can.
    """

    name: str
    versions: int = 0
    trials: int = 0
    searched: int = 0
    facts: MarketFacts | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Every market of a source.

    Attributes:
        now: As of when, aware.
        rows: In the order of their names.
        left_out: Markets beyond `MOST_MARKETS`.
    """

    source: Source
    now: datetime
    rows: tuple[MarketRow, ...]
    left_out: int = 0

    @property
    def facts(self) -> tuple[MarketFacts, ...]:
        """What is known of those that can be told of."""
        return tuple(row.facts for row in self.rows if row.facts)

    @property
    def leads(self) -> int:
        """How many markets lead over the best baseline by more than luck."""
        return sum(one.lead_counts for one in self.facts)

    @property
    def directions(self) -> int:
        """How many forecast direction by more than luck."""
        return sum(one.direction_counts for one in self.facts)


def read_panel(store: ArtifactStore, source: Source, now: datetime) -> Panel:
    """Return the newest version of each market; one that is damaged is a row that says so, and stops no other.

    `now` is aware.

    Raises:
        ArtifactError: The store can't be listed.
    """
    names = [name for one, name in store.markets() if one == source]
    rows = [row for name in names[:MOST_MARKETS] if (row := _row(store, source, name))]
    return Panel(source=source, now=now, rows=tuple(_adjusted(rows)), left_out=max(len(names) - MOST_MARKETS, 0))


def _row(store: ArtifactStore, source: Source, name: str) -> MarketRow | None:
    """Return what is known of a market; None where nothing was looked at yet."""
    row = MarketRow(name=name)
    try:
        trials, searched = (TrialLog(store.place, kind).count(source, name) for kind in (Trial, Candidate))
        versions = store.versions(source, name)
        row = replace(row, versions=len(versions), trials=trials, searched=searched)
        if not (versions or trials or searched):
            return None
        if not versions:
            raise ArtifactError("no version yet: its runs ended before one was stored; run it again (flows.retrain)")
        return replace(row, facts=_facts(store, versions[-1]))
    except Exception as err:  # whatever it is, it is this market's alone
        return replace(row, error=one_line(err, 400) or type(err).__name__)


def _facts(store: ArtifactStore, ref: VersionRef) -> MarketFacts:
    document = store.manifest(ref)
    manifest = Manifest.of(document, ref)
    if (manifest.origin == "exchange") == ref.source.startswith("sandbox:"):
        raise ArtifactError(f"manifest of {ref} must name an origin of its source, was {manifest.origin}; retrain")
    with refusing(f"version {ref} must be made again, its numbers are not as they were written", *OTHERWISE):
        skill = _read(_BACKTEST, parse_json(store.read(ref, "backtest.json"))).skill
        folds = len(parse_json(store.read(ref, "folds.json")))
        # Before format 2 nothing was forecast of volatility.
        risk = parse_json(store.read(ref, "risk.json")) if "risk.json" in document["files"] else {"below": ()}
        below = _read(_VOL_RECORD, risk).below
        baseline = next((line for line in manifest.summary.lines if line.lead is not None), None)
        if baseline and not 0 <= _known(baseline.p_value) <= 1:
            raise ValueError(f"p_value of the lead must be 0 to 1, was {baseline.p_value}")
        vol_calibration_gap = (
            max(abs(share - level) for share, level in zip(below, LEVELS, strict=True)) if below else None
        )
        return MarketFacts(
            ref=ref,
            manifest=manifest,
            made=ref.made_at,
            labels=skill.samples,
            folds=folds,
            baseline=baseline,
            direction_p=skill.direction_p_value,
            edge_bp=skill.edge_bp,
            edge_error_bp=skill.edge_error_bp,
            vol_calibration_gap=vol_calibration_gap,
        )


def _adjusted(rows: Sequence[MarketRow]) -> list[MarketRow]:
    """Return the rows with their p-values set right; a market of which nothing can be told counts as one without skill.

    Left out it would make the others' leads look rarer than they are.
    """
    leads = adjusted_p_values(np.array([_known(row.facts.lead_p if row.facts else None) for row in rows]))
    directions = adjusted_p_values(np.array([_known(row.facts.direction_p if row.facts else None) for row in rows]))
    return [
        replace(row, facts=replace(row.facts, lead_adjusted=lead, direction_adjusted=direction)) if row.facts else row
        for row, lead, direction in zip(rows, leads.tolist(), directions.tolist(), strict=True)
    ]


def _known(p_value: float | None) -> float:
    return 1.0 if p_value is None else p_value


def _read(shape: TypeAdapter[Any], document: Any) -> Any:
    try:
        return shape.validate_python(document)
    except ValidationError as err:  # its own text has many lines, and an address
        first = err.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}") from err
