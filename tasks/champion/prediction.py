"""History as a version predicts it: the way that backtests and replays do, all bars in one pass."""

from __future__ import annotations

from storage.schema import FloatArray, IntArray
from tasks.champion.serving import ServedModel
from tasks.network.dsc import load_model
from tasks.network.inference import SeriesForecast, forecast_series


def predict_history(model: ServedModel, features: FloatArray, segment: IntArray) -> SeriesForecast:
    """Return what a version says of (T, F) features in (T,) segments; NaN while a segment warms up."""
    return forecast_series(load_model(model.recipe.network_config, model.weights), features, segment)
