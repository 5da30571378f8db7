"""Training one fold, and what its network says of the bars that it has not seen."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tasks.execution.vol_skill import LEVELS
from tasks.network.dsc import DSCTradingModel, load_model
from tasks.network.export import weights_bytes
from tasks.network.fit import fit
from tasks.network.folding import load_weights
from tasks.network.inference import SeriesForecast, forecast_series
from tasks.network.start import Start, prepare
from tasks.network.training_record import VolHeadFit
from tasks.network.vol_head import add_vol_head
from tasks.strategy.folds import NO_HEAD, FoldResult
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import FoldBars


def prepare_start(bars: FoldBars, recipe: Recipe, on_progress: Callable[[float], None] = lambda share: None) -> Start:
    """Return what every network of a fold starts from."""
    return prepare(recipe.network_config, bars.series, bars.train, bars.validation, recipe.fit_config, on_progress)


def train(
    bars: FoldBars,
    recipe: Recipe,
    start: Start | None = None,
    on_progress: Callable[[float, str], None] = lambda share, note: None,
) -> FoldResult:
    """Train one fold and predict its unseen bars. `start` is what `prepare_start` made of the fold; None makes it."""
    fitted = fit(
        recipe.network_config,
        bars.series,
        bars.train,
        bars.validation,
        recipe.fit_config,
        on_progress=lambda now: on_progress(now.share, f"loss {now.validation_loss:.4f}"),
        start=start,
    )
    model, risk = _with_vol_head(fitted.model, bars, recipe)
    said = _forecast(model, bars)
    return FoldResult(
        weights=weights_bytes(model),
        class_means=bars.class_means,
        prior=bars.prior,
        probabilities=said.probabilities,
        log_variance_ratio=said.log_variance_ratio,
        risk=risk,
        history=fitted.history,
        best_steps=fitted.best_steps,
        temperature=fitted.temperature,
        seconds=fitted.seconds,
    )


def of_market(pooled: FoldResult, bars: FoldBars, recipe: Recipe) -> FoldResult:
    """Return what a pool's network says of one market: its weights, and predictions of the market's unseen bars.

    The prior is the market's own, or the pool's where it has no bars to learn one from.
    """
    model = load_model(recipe.network_config, load_weights(pooled.weights))
    said = _forecast(model, bars)
    prior = bars.prior if bars.train[0] < bars.train[1] else pooled.prior  # a new listing has shares of others alone
    return replace(pooled, prior=prior, probabilities=said.probabilities, log_variance_ratio=said.log_variance_ratio)


def _forecast(model: DSCTradingModel, bars: FoldBars) -> SeriesForecast:
    """Return what the network says of the bars that are to be predicted."""
    series, rows = bars.series, bars.predicted
    if rows.start == rows.stop:
        return SeriesForecast(np.empty((0, model.config.num_classes)), np.empty(0))
    said = forecast_series(model, series.features, series.segment)
    return SeriesForecast(said.probabilities[rows], said.log_variance_ratio[rows])


def _with_vol_head(model: DSCTradingModel, bars: FoldBars, recipe: Recipe) -> tuple[DSCTradingModel, VolHeadFit]:
    """Return a fold's network with its volatility head, if the recipe's has one, and how that was solved."""
    if not recipe.network_config.risk_head:
        return model, NO_HEAD
    series, learned = bars.series, np.flatnonzero(np.isfinite(bars.log_ratio))
    return add_vol_head(model, series.features, series.segment, bars.log_ratio, learned, bars.vol_horizon, LEVELS)
