"""Which version may be served right now, and what of it decides: weights, rule and costs; no torch, no Prefect."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from storage.artifacts import ArtifactStore
from storage.champion_log import ChampionEntry
from storage.schema import FloatArray, Market, Source, VersionRef, utc_text
from tasks.champion.expiry import UP_TO_DATE, ExpiryRule, missed_retrains
from tasks.champion.manifest import Manifest, read_manifest
from tasks.network.engine import Engine
from tasks.network.folding import Weights, load_weights
from tasks.strategy.live_tick import LiveTick
from tasks.strategy.recipe import Recipe, decision_params

CLOCK_SLACK_MS = 300_000
"""How far this machine's clock may be behind what it wrote or stored before it counts as wrong."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What may open a position.

    Attributes:
        ref: The version; None: nothing, hold no position.
        reason: Why, one line.
        missed: Scheduled retrains that have not happened since the last one; 0 where there is no champion.
        seal: Of the version at its promotion; None where there is no champion.
    """

    ref: VersionRef | None
    reason: str
    missed: int = 0
    seal: str | None = None


def served_champion(store: ArtifactStore, source: Source, name: str, now_ms: int, rule: ExpiryRule) -> Served:
    """Return the champion, or nothing where it is flat or expired, or the clock can't tell.

    Raises:
        ArtifactError: The champion's entry or version is damaged.
    """
    entry = store.champion(source, name)
    if entry.ref is None:
        return Served(ref=None, reason="the champion is flat")
    last_ms = _last_challenged_ms(store, entry, now_ms)
    if now_ms < last_ms - CLOCK_SLACK_MS:
        return Served(
            ref=None,
            reason=f"this machine's clock says {utc_text(now_ms)}, champion {entry.ref.version} was last compared "
            f"{utc_text(last_ms)}; set the clock, or, if it was wrong then, roll back (flows.rollback)",
        )
    missed = missed_retrains(last_ms, now_ms, rule)
    if missed >= rule.most_missed:
        return Served(
            ref=None,
            missed=missed,
            reason=f"champion {entry.ref.version} has expired: {missed} retrains missed, {rule.most_missed} are too "
            "many; run retrain",
        )
    return Served(ref=entry.ref, reason=f"champion {entry.ref.version} is in force", missed=missed, seal=entry.seal)


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel:
    """A version that decides.

    Attributes:
        weights: By the names that the network gives them.
        class_means: (3,) what `decide` knows of its classes.
    """

    ref: VersionRef
    market: Market
    recipe: Recipe
    weights: Weights
    class_means: FloatArray

    @property
    def params(self) -> FloatArray:
        """(10,) for `decide`."""
        return decision_params(self.recipe, self.market, self.class_means)

    def tick(self) -> LiveTick:
        """Return a tick that has seen no candle.

        Raises:
            ArtifactError: The weights are of another network.
            ConfigError: The network is one that the engine can't run bar by bar.
        """
        engine = Engine.from_weights(self.recipe.network_config, self.weights)
        return LiveTick(engine, self.market.interval_ms, self.params)


def load_served(store: ArtifactStore, ref: VersionRef, seal: str | None = None) -> ServedModel:
    """Load a version to decide with, after every hash of it has been verified.

    `seal` is what its promotion recorded, `Served.seal`; None for a version that is no champion.

    Raises:
        ArtifactError: It is unknown, damaged or expects other features.
    """
    artifact = store.load(ref, source=ref.source, seal=seal)
    manifest = Manifest.of(artifact.manifest, ref)
    return ServedModel(
        ref=ref,
        market=manifest.market,
        recipe=manifest.recipe,
        weights=load_weights(artifact.files["weights.safetensors"]),
        class_means=np.array(manifest.class_means),
    )


def _last_challenged_ms(store: ArtifactStore, entry: ChampionEntry, now_ms: int) -> int:
    """Return when a champion was last compared with a version on newer bars, or was put in force.

    Every retrain on new bars stores a version, promoted or not; one on old bars, or on the same again, asks nothing.
    """
    if entry.ref is None:
        return 0
    newest_bar, asked = 0, entry.at
    for ref in reversed(store.versions(entry.ref.source, entry.ref.name)):
        if ref.made < min(entry.ref.made, entry.at):
            break
        manifest = read_manifest(store, ref)
        if ref != entry.ref and manifest.judgement.sequence != entry.sequence:
            continue
        if UP_TO_DATE in manifest.judgement.failed:
            continue  # newer bars than the champion's, perhaps, but none of the present
        if manifest.trained_until_ms < now_ms < _ms(ref.made) - CLOCK_SLACK_MS:
            continue  # made by a clock that was wrong: by this one its bars are past, and it is still to come
        if manifest.trained_until_ms < newest_bar:
            break  # those before it saw less still
        newest_bar, asked = manifest.trained_until_ms, ref.made
    return _ms(max(asked, entry.at))


def _ms(stamp: str) -> int:
    return int(datetime.fromisoformat(stamp).timestamp() * 1000)
