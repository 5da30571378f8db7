"""What must hold after a soak, whatever was killed; each check returns its violations, one line each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np

from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.recent import read_recent
from storage.results import ResultStore
from storage.schema import CANDLE_COLUMNS, PipelineError
from storage.settings import Settings
from tests.soak.soak_exchange import MARKET, SOURCE, SoakExchange
from tests.storage.stored import rejected_rows, table_hash

LONGEST_SILENCE_S = 5.0
"""Between two decisions. They are due every second; the rest is for a machine that is busy with other things."""


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What the deciding process wrote.

    Attributes:
        served: Decisions without an error.
        missed: Seconds of its life without one.
        longest_gap_s: Longest time between two.
        errors: Those that surfaced.
        versions: How many versions decided.
        champion: The version that decided last.
    """

    served: int
    missed: int
    longest_gap_s: float
    errors: tuple[str, ...]
    versions: int
    champion: str | None

    @classmethod
    def of(cls, log: Path) -> Decisions:
        """Read a log; its last line may be cut."""
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
        served = [line for line in lines if "error" not in line]
        at = np.array([line["at"] for line in served])
        seconds = int(at[-1] - at[0]) + 1 if len(at) else 0
        return cls(
            served=len(served),
            missed=max(0, seconds - len(np.unique(np.floor(at - at[0])))) if len(at) else 0,
            longest_gap_s=float(np.diff(at).max(initial=0.0)),
            errors=tuple(line["error"] for line in lines if "error" in line),
            versions=len({line["version"] for line in served if line["version"]}),
            champion=served[-1]["version"] if served else None,
        )


def store_violations(settings: Settings, exchange: SoakExchange) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of every rule about what is stored, and how it was broken."""
    candles, models = CandleStore(settings.database), ArtifactStore(settings.models)
    yield "the candles are what the exchange served, hash for hash", _hash(candles, exchange)
    yield "no candle is stored twice", _duplicates(settings)
    yield "every hole is a recorded gap, and nothing else is", _gaps(candles, exchange)
    yield "the file of recent candles is the end of the table", _recent(settings, candles)
    yield "every visible version verifies, every hash of it", _versions(models)
    yield "the champions are a chain: each beat the one before", _champions(models)
    yield "nothing unfinished is taken for a result", _results(settings)


def decision_violations(decisions: Decisions, champion: str | None) -> list[str]:
    """Return what was wrong with the decisions."""
    found = [f"surfaced: {error}" for error in decisions.errors[:5]]
    if not decisions.served:
        found.append("no decision was served")
    if decisions.longest_gap_s > LONGEST_SILENCE_S:
        found.append(f"longest gap {decisions.longest_gap_s:.1f} s, at most {LONGEST_SILENCE_S:g} s may pass")
    if decisions.champion != champion:
        found.append(f"the last decision was by {decisions.champion}, the champion is {champion}")
    return found


def _hash(candles: CandleStore, exchange: SoakExchange) -> list[str]:
    found, wanted = table_hash(candles, SOURCE, MARKET), exchange.served_hash()
    if found == wanted:
        return []
    stored, served = candles.read(SOURCE, MARKET), exchange.served()
    return [f"hash {found[:12]} of {len(stored)} candles, served were {len(served)} with hash {wanted[:12]}"]


def _duplicates(settings: Settings) -> list[str]:
    with duckdb.connect(settings.database, read_only=True) as con:
        (repeated,) = con.execute(
            "select count(*) from (from candles select 1 group by source, category, symbol, interval, start_time "
            "having count(*) > 1)"
        ).fetchall()[0]
    return [f"{repeated} keys are repeated"] if repeated else []


def _gaps(candles: CandleStore, exchange: SoakExchange) -> list[str]:
    bars, wanted = sum(gap.bars for gap in candles.gaps(SOURCE, MARKET)), exchange.served_holes()
    found = [] if bars == wanted else [f"{bars} bars are recorded as gaps, {wanted} do not exist"]
    rejected = len(rejected_rows(candles, SOURCE, MARKET))
    return found + ([f"{rejected} rows were rejected, none was broken"] if rejected else [])


def _recent(settings: Settings, candles: CandleStore) -> list[str]:
    recent, stored = read_recent(settings.recent, SOURCE, MARKET), candles.read(SOURCE, MARKET)
    tail = stored[-len(recent) :]
    same = len(recent) and all(
        np.array_equal(getattr(recent, name), getattr(tail, name)) for name in ("start_ms", *CANDLE_COLUMNS)
    )
    return [] if same else [f"{len(recent)} candles there, the last of the {len(stored)} stored are others"]


def _versions(models: ArtifactStore) -> list[str]:
    found = []
    for ref in models.versions(SOURCE, MARKET.slug):
        try:
            models.load(ref, source=SOURCE)
        except PipelineError as err:
            found.append(str(err))
    return found


def _champions(models: ArtifactStore) -> list[str]:
    try:
        history = models.history(SOURCE, MARKET.slug)
        models.champion(SOURCE, MARKET.slug)
    except PipelineError as err:
        return [str(err)]
    found = []
    for before, entry in pairwise(history):
        beaten = entry.evidence["beaten"]
        ruled = before.ref.version if before.ref else "flat"
        if entry.sequence != before.sequence + 1 or beaten != ruled:
            found.append(f"entry {entry.sequence} was compared with {beaten}, in force was {ruled}")
    return found


def _results(settings: Settings) -> list[str]:
    """Prove everything that is visible; what killed writers began has another name."""
    found = []
    for store in map(ResultStore, (settings.work, settings.datasets)):
        for key in store.by_last_use():
            try:
                store.read(key)
            except PipelineError as err:
                found.append(str(err))
    return found
