"""A stored version as a session decides with it: its weights, its rule, its costs; no torch, no Prefect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from storage.artifacts import ArtifactStore
from storage.schema import FloatArray, Instrument, Market, VersionRef
from tasks.champion.manifest import Manifest
from tasks.execution.accounting import Steps, account_rules
from tasks.network.engine import Engine
from tasks.network.folding import Weights, load_weights
from tasks.strategy.live_tick import LiveTick
from tasks.strategy.recipe import Recipe, decision_params


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveModel:
    """A version that decides.

    Attributes:
        ref: Its name.
        market: Where it trades.
        recipe: Rule, costs, capital.
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
        """(9,) for `decide`."""
        return decision_params(self.recipe, self.market, self.class_means)

    def tick(self) -> LiveTick:
        """Return a tick that has seen no candle."""
        engine = Engine.from_weights(self.recipe.network_config, self.weights)
        return LiveTick(engine, self.market.interval_ms, self.params)


def load_live_model(store: ArtifactStore, ref: VersionRef) -> LiveModel:
    """Load a version, after every hash of it has been verified.

    Raises:
        ArtifactError: It is unknown, damaged or expects other features.
    """
    artifact = store.load(ref, source=ref.source)
    manifest = Manifest.of(artifact.manifest, ref)
    return LiveModel(
        ref=ref,
        market=manifest.market,
        recipe=manifest.recipe,
        weights=load_weights(artifact.files["weights.safetensors"]),
        class_means=np.array(manifest.class_means),
    )


def session_rules(recipe: Recipe, instrument: Instrument) -> FloatArray:
    """Return (8,) what a session's account trades by: the recipe's size and costs, the exchange's steps."""
    account = recipe.backtest
    return account_rules(account.position_fraction, account.fixed_coins, recipe.costs, Steps.of(instrument))
