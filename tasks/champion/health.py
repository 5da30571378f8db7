"""The state of a market: what is stored of it, how old that is, what serves it, and whether that still holds."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, NamedTuple

from storage.artifacts import ArtifactStore
from storage.authorship import Where
from storage.bounds import Checked, NonNegativeInt, PositiveInt, Share
from storage.candles import CandleStore, Coverage, FlowRun
from storage.schema import DAY_MS, ArtifactError, PipelineError, Title, VersionRef, utc_text
from tasks.champion.expiry import USUAL_EXPIRY, ExpiryRule
from tasks.champion.serving import CLOCK_SLACK_MS, served_champion
from tasks.champion.watch import champion_drift, champion_skill


@dataclass(frozen=True, kw_only=True)
class MonitorConfig(Checked):
    """When something needs a person.

    Attributes:
        stale_bars: Bars that may be missing at the end of a market before it counts as stale; a replay has no present.
        gap_limit: Largest share of bars that may be missing between others.
        live_sandbox: A sandbox market with a candle of the last 24 hours moves on with real time: judge it like others.
        drift_bars: Bars of a block that is compared with those that the champion was trained on; 0 compares none. The
            market has changed when the newest two, which share no bar, both differ: of single ones 3 to 11 % do anyway.
        skill_labels: Newest labels whose bars the champion was not trained on, by which it is judged; 0 for none.
    """

    stale_bars: Annotated[PositiveInt, Title("Bars missing at the end, at most")] = 3
    gap_limit: Annotated[Share, Title("Share of missing bars, at most")] = 0.1
    live_sandbox: Annotated[bool, Title("Judge a made-up market like others")] = False
    drift_bars: Annotated[NonNegativeInt, Title("Bars compared for a change of the market")] = 1_000
    skill_labels: Annotated[NonNegativeInt, Title("Labels that skill is judged by")] = 2_000


@dataclass(frozen=True, kw_only=True)
class MarketHealth:
    """One market.

    Attributes:
        market: Source and slug.
        newest: Open time of the newest, UTC; "none" without candles.
        gaps: Bars recorded as missing.
        champion: Version in force, or "flat".
        age: How long it has been in force, in words; "-" for flat.
        ingest: How the last ingest ended and when it began, UTC; "none" where none is on record.
        drift: How far the newest bars are from the training bars, in words.
        skill: What the champion's probabilities were worth on the newest labels, in words.
        breaches: What needs a person: kind -> what was found.
        paper: What its newest paper session came to, in words; empty where there is none.
    """

    market: str
    bars: int
    newest: str
    gaps: int
    champion: str
    age: str
    ingest: str
    drift: str
    skill: str
    breaches: Mapping[str, str]
    paper: str = ""

    @property
    def complaints(self) -> tuple[str, ...]:
        """What needs a person, one sentence each; empty when nothing does."""
        return tuple(self.breaches.values())

    def text(self) -> str:
        """Return what a terminal shows: what needs a person in the first line, then what is known, a line each."""
        known = {
            "candles": f"{self.bars:,}, newest {self.newest}, {self.gaps:,} missing; last ingest {self.ingest}",
            "champion": self.champion if self.age == "-" else f"{self.champion}, for {self.age}",
            "drift": self.drift,
            "skill": self.skill,
            "paper": self.paper,
        }
        lines = [f"  {name:<8}  {said}" for name, said in known.items() if said]
        return "\n".join([f"{self.market}: {'; '.join(self.complaints) or 'ok'}", *lines])

    def row(self) -> dict[str, str]:
        """Return what a person looks for first as a line of a table."""
        state = "; ".join(self.complaints) or "ok"
        return {"market": self.market, "state": state, "champion": self.champion}


def changes(before: Collection[str], after: Collection[str]) -> dict[str, str]:
    """Return the breaches whose state has changed: kind -> "raised" or "over"; one that stays is told once."""
    raised = {kind: "raised" for kind in after if kind not in before}
    return raised | {kind: "over" for kind in before if kind not in after}


def health(
    row: Coverage,
    models: ArtifactStore,
    limits: MonitorConfig,
    now_ms: int,
    store: CandleStore | None = None,
    datasets: Where = "",
    run: FlowRun | None = None,
    expiry: ExpiryRule = USUAL_EXPIRY,
) -> MarketHealth:
    """Judge one market.

    Without its candles (`store`), drift and skill are not measured; `run` is its last ingest, where one is on record.
    """
    moves = _moves_on(row, limits, now_ms)
    breaches = _breaches_of_candles(row, limits, now_ms) if moves or row.last_ms is None else {}
    expected = row.bars + row.gaps
    if row.gaps > limits.gap_limit * expected:
        share = f"{row.gaps:,} of {expected:,} bars are missing ({row.gaps / expected:.2%})"
        breaches["gaps"] = f"{share}, at most {limits.gap_limit:.2%} may; run ingest with recheck_gaps"
    if run is not None and run.status == "failed":
        breaches["ingest"] = "the last ingest failed; its run says why"
    champion = _state_of_champion(row, models, limits, now_ms, store, datasets, expiry if moves else None)
    return MarketHealth(
        market=f"{row.source}/{row.market.slug}",
        bars=row.bars,
        newest="none" if row.last_ms is None else utc_text(row.last_ms),
        gaps=row.gaps,
        champion=champion.name,
        age=champion.age,
        ingest="none" if run is None else f"{run.status} {utc_text(run.started_ms)}",
        drift=champion.drift,
        skill=champion.skill,
        breaches=breaches | champion.breaches,
    )


def _moves_on(row: Coverage, limits: MonitorConfig, now_ms: int) -> bool:
    """Return whether new candles are due; a replay is over, and its champion never grows old."""
    is_fresh = row.last_ms is not None and now_ms - row.last_ms < DAY_MS
    return not row.source.startswith("sandbox:") or (limits.live_sandbox and is_fresh)


def _breaches_of_candles(row: Coverage, limits: MonitorConfig, now_ms: int) -> dict[str, str]:
    """Return what is wrong with the newest candle: none, from the future, or too old."""
    if row.last_ms is None:
        return {"stale": "no candle is stored"}
    breaches, closed_ms = {}, row.last_ms + row.market.interval_ms
    if closed_ms > now_ms + CLOCK_SLACK_MS:
        said = f"this machine's clock says {utc_text(now_ms)}, a bar closed {utc_text(closed_ms)}"
        breaches["clock"] = f"{said}; set the clock"
    late = (row.market.floor(now_ms) - row.last_ms) // row.market.interval_ms - 1
    if late > limits.stale_bars:
        breaches["stale"] = f"stale: {late} closed bars are missing at the end; run ingest"
    return breaches


class _ChampionState(NamedTuple):
    """As the attributes of `MarketHealth` say; `breaches` are the champion's alone."""

    name: str
    age: str
    drift: str
    skill: str
    breaches: dict[str, str]


def _state_of_champion(
    row: Coverage,
    models: ArtifactStore,
    limits: MonitorConfig,
    now_ms: int,
    store: CandleStore | None,
    datasets: Where,
    expiry: ExpiryRule | None,
) -> _ChampionState:
    """Return how a market's champion does, or that it can't be read; `expiry` is None where none expires."""
    try:
        entry = models.champion(row.source, row.market.slug)
        if entry.ref is None:
            return _ChampionState("flat", "-", *_unmeasured(limits), {})
        breaches = {}
        if expiry is not None and (said := _expiry_text(row, models, now_ms, expiry)):
            breaches["champion"] = said
        drift, skill, wrong = _measured(entry.ref, row, models, limits, store, datasets)
        return _ChampionState(entry.ref.version, _days_since(entry.at, now_ms), drift, skill, breaches | wrong)
    except Exception as err:  # whatever it is, the other markets are looked at
        lost = "not measured: the champion can't be read"
        said = f"the champion can't be read ({_why(err)}); nothing is served, see flows.rollback"
        return _ChampionState("unreadable", "-", lost, lost, {"champion": said})


def _measured(
    ref: VersionRef,
    row: Coverage,
    models: ArtifactStore,
    limits: MonitorConfig,
    store: CandleStore | None,
    datasets: Where,
) -> tuple[str, str, dict[str, str]]:
    """Return drift and skill in words, and what of them needs a person.

    Raises:
        ArtifactError: The version is damaged. Whatever else fails, its candles above all, leaves it as good as it was.
    """
    drift, skill = _unmeasured(limits)
    breaches: dict[str, str] = {}
    try:
        if store is not None and limits.drift_bars:
            drift, has_changed = champion_drift(ref, row, models, store, datasets, limits.drift_bars)
            if has_changed:
                breaches["drift"] = f"the market has changed: {drift}; run retrain"
        if store is not None and limits.skill_labels:
            skill, wrong = champion_skill(ref, row, models, store, limits.skill_labels)
            breaches |= wrong
    except ArtifactError:
        raise
    except Exception as err:
        skill = f"not measured: {_why(err)}"
        if limits.drift_bars and drift == _unmeasured(limits)[0]:
            drift = skill
        breaches["skill"] = f"the champion can't be judged ({_why(err)}); look again later"
    return drift, skill, breaches


def _why(err: Exception) -> str:
    return str(err) if isinstance(err, PipelineError) else f"{type(err).__name__}: {err}"


def _unmeasured(limits: MonitorConfig) -> tuple[str, str]:
    """Return what is said of drift and skill where they are not measured."""
    none = "not measured: no champion"
    return (
        none if limits.drift_bars else "not measured: drift_bars is 0",
        none if limits.skill_labels else "not measured: skill_labels is 0",
    )


def _expiry_text(row: Coverage, models: ArtifactStore, now_ms: int, rule: ExpiryRule) -> str:
    """Return why a champion is no longer served, or that one more missed retrain ends it; empty while it is young."""
    served = served_champion(models, row.source, row.market.slug, now_ms, rule)
    if served.ref is None:
        return served.reason
    is_last = served.missed and served.missed >= rule.most_missed - 1
    return f"one more missed retrain and champion {served.ref.version} expires; run retrain" if is_last else ""


def _days_since(at: str, now_ms: int) -> str:
    return f"{(now_ms / 1000 - datetime.fromisoformat(at).timestamp()) / 86_400:.1f} days"
