"""How fast a trained model is, beside its twins, and whether all ways to run it agree."""

from collections.abc import Callable
from dataclasses import dataclass

from storage.results import ResultStore
from storage.sealed import shape_of
from storage.snapshots import Dataset
from tasks.network.export import check_parity, onnx_graphs
from tasks.network.folding import load_weights
from tasks.network.latency import LatencyRow, machine_fingerprint, measure_latency, measure_model, twins
from tasks.network.series import newest_run
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe

_PARITY_BARS = 256  # beyond the context, of real features, for the comparison and the timing


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast the trained model is, on one thread, and how well the ways to run it agree.

    Attributes:
        machine: Processor, cores and versions that the timings belong to.
        parity: Largest difference of calibrated logits between any way and torch on windows.
        model: One new bar through the trained model, by the engine where the network allows it.
        rows: The separable network and its standard twin in every runtime.
        edges_us, calls: Histogram of the times behind `model`; a bin's calls lie between two edges.
    """

    machine: dict[str, str | int]
    parity: float
    model: LatencyRow
    rows: tuple[LatencyRow, ...]
    edges_us: tuple[float, ...]
    calls: tuple[int, ...]


def speed_key(fold: str) -> str:
    """Return the key of a fold's speed: of its model, the code and this machine."""
    made_from = {"fold": fold, "code": code_behind("tasks.strategy.speed"), "machine": machine_fingerprint()}
    return ResultStore.key("latency", made_from)


def measure_speed(
    dataset: Dataset, recipe: Recipe, weights: bytes, on_progress: Callable[[float], None] = lambda share: None
) -> Speed:
    """Prove that all ways to run a model agree on the newest bars, and time it beside its twins.

    Raises:
        ArtifactError: Two ways to run the model disagree.
        DatasetError: No run of bars is long enough to compare them on.
    """
    from tasks.network.dsc import load_model  # with torch, which who reads a speed does without

    config, tensors = recipe.network_config, load_weights(weights)
    graphs = onnx_graphs(config, tensors)
    inputs = dataset.features[:, : config.input_features]
    features = inputs[newest_run(inputs, dataset.segment, config.context + _PARITY_BARS)]
    parity = check_parity(
        load_model(config, tensors), features, window=graphs["model.onnx"], step=graphs.get("step.onnx")
    )
    rows = measure_latency(twins(config), on_progress=lambda done, of: on_progress(done / of))
    model, timing = measure_model(config, tensors, features)
    edges_us, calls = timing.histogram()
    return Speed(
        machine=machine_fingerprint(),
        parity=max(parity.values()),
        model=model,
        rows=tuple(rows),
        edges_us=tuple(edges_us),
        calls=tuple(calls),
    )


def speed_of(content: bytes) -> Speed:
    """Return the speed of which this is the JSON."""
    return shape_of(Speed).validate_json(content)
