"""History as a version predicts it: the way that backtests and replays do, all bars in one pass. With torch."""

from storage.schema import FloatArray, IntArray
from tasks.champion.serving import ServedModel
from tasks.network.architecture import DSCConfig
from tasks.network.dsc import load_model
from tasks.network.folding import load_weights
from tasks.network.inference import SeriesForecast, forecast_series


def predict_history(model: ServedModel, features: FloatArray, segment: IntArray) -> SeriesForecast:
    """Return what a version says of (T, F) features in (T,) segments; NaN while a segment warms up."""
    return forecast_series(load_model(model.recipe.network_config, model.weights), features, segment)


def forecast_history(config: DSCConfig, weights: bytes, features: FloatArray, segment: IntArray) -> SeriesForecast:
    """Return the same of a network by its weights as a version keeps them, safetensors."""
    return forecast_series(load_model(config, load_weights(weights)), features, segment)
