"""The source text's headline table, its claims beside what was measured, separable and standard network each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks.network.architecture import DSCConfig, layer_macs, macs_per_window, parameters
from tasks.reporting.markup import DASH, written
from tasks.reporting.report_data import Row
from tasks.strategy.baselines import twin_name
from tasks.strategy.contest import MODEL, Contest
from tasks.strategy.out_of_sample import Evaluation
from tasks.strategy.recipe import Recipe
from tasks.strategy.speed import Speed

_CHANNELS, _TAPS, _BARS = 64, 9, 100  # the text's "64ch, 3x3" is K=9 in one dimension; its window has 100 bars


def headline_rows(recipe: Recipe, evaluation: Evaluation, measured: Speed, contest: Contest) -> tuple[Row, ...]:
    """Return the table's lines; a number that was not measured is a dash.

    Args:
        recipe: Names the network, whose twin is the other column.
        evaluation: The model's own weights.
        measured: Timings of the separable and the standard network.
        contest: Holds the twin's results.
    """
    return tuple(_rows(recipe.network_config, evaluation, measured, contest, twin_name(recipe)))


def _rows(
    config: DSCConfig, evaluation: Evaluation, measured: Speed, contest: Contest, twin: str
) -> Iterator[dict[str, str]]:
    standard, separable = _pair(config)
    other, one = (layer_macs(_CHANNELS, _TAPS, network.block) for network in (standard, separable))
    yield _row(
        f"weights of one layer, {_CHANNELS} channels, K={_TAPS}", "36,864", "4,672", f"{other:,}", f"{one:,}",
        "the 3x3 of an image is K=9 along time",
    )  # fmt: skip
    yield _row(
        f"FLOPs of that layer over {_BARS} bars", "36.8M", "4.7M",
        f"{2 * other * _BARS / 1e6:.2f}M", f"{2 * one * _BARS / 1e6:.2f}M", "a multiply-add is two",
    )  # fmt: skip
    shape = f"C={config.hidden_channels}, K={config.kernel_size}"
    yield _row(
        f"parameters of the whole network, {shape}", DASH, DASH,
        f"{parameters(standard):,}", f"{parameters(separable):,}", "norms, skip and head included",
    )  # fmt: skip
    yield _row(
        f"FLOPs of one window, {shape}", DASH, DASH,
        f"{2e-6 * macs_per_window(standard):.2f}M", f"{2e-6 * macs_per_window(separable):.2f}M",
        f"{config.context} bars",
    )  # fmt: skip
    yield from _times(config, measured)
    yield from _results(config, evaluation, contest, twin)


def _times(config: DSCConfig, measured: Speed) -> Iterator[dict[str, str]]:
    times = {
        (row["runtime"], row["config"]["kernel_size"], row["config"]["block"]): row["p50_us"] for row in measured.rows
    }
    for runtime, what in (("eager torch", "a window"), ("ONNX Runtime", "a window"), ("engine", "a new bar")):
        pair = [times.get((runtime, _TAPS, network.block)) for network in _pair(config)]
        claimed = ("12.3 ms", "1.8 ms") if runtime == "eager torch" else (DASH, DASH)
        shown = [DASH if us is None else written(us, "us") for us in pair]
        ratio = f"; separable takes {pair[1] / pair[0]:.0%}" if pair[0] and pair[1] else ""
        note = f"median, batch 1, one thread, C={config.hidden_channels}{ratio}"
        yield _row(f"CPU time of {what}, K={_TAPS}, {runtime}", *claimed, *shown, note)


def _results(config: DSCConfig, evaluation: Evaluation, contest: Contest, twin: str) -> Iterator[dict[str, str]]:
    pair = [contest.named(twin), contest.named(MODEL)]
    if config.block == "standard":
        pair.reverse()
    spread = 1.96 * evaluation.skill.accuracy_error
    accuracy = [None if line is None else line.accuracy for line in pair]
    sharpe = [None if line is None else line.sharpe_ratio for line in pair]
    yield _row(
        "accuracy on unseen bars", "54.2 %", "53.8 %", *(_or_dash(value, "{:.2%}") for value in accuracy),
        f"95 %: +/- {spread:.2%}; three classes, most frequent {evaluation.skill.majority_accuracy:.2%}",
    )  # fmt: skip
    record = evaluation.record
    interval = record.caveat or f"95 % of the model's: {record.low:.2f} to {record.high:.2f}"
    yield _row("Sharpe ratio, net", "1.42", "1.38", *(_or_dash(value, "{:.2f}") for value in sharpe), interval)
    weights: list[Any] = [contest.facts[-1].get(twin, {}).get("weights_bytes"), len(evaluation.folds[-1].weights)]
    if config.block == "standard":
        weights.reverse()
    yield _row("weights, bytes", DASH, DASH, *(_or_dash(value, "{:,}") for value in weights), "safetensors, float32")
    kept = [_percent(accuracy), _percent(sharpe)]
    yield _row(
        "share of the standard's performance", "100 %", "~98 %", "100 %",
        " / ".join(kept), "accuracy / Sharpe ratio, this run",
    )  # fmt: skip
    standard, separable = _pair(config)
    layer = layer_macs(_CHANNELS, _TAPS, separable.block) / layer_macs(_CHANNELS, _TAPS, standard.block)
    whole = macs_per_window(separable) / macs_per_window(standard)
    yield _row(
        "share of the standard's computation", "100 %", "~12 %", "100 %",
        f"{_or_dash(layer, '{:.1%}')} / {_or_dash(whole, '{:.1%}')}", "that layer / this network; counted, not timed",
    )  # fmt: skip


def _row(what: str, *cells: str) -> dict[str, str]:
    names = ("claimed, standard", "claimed, separable", "measured, standard", "measured, separable", "note")
    return {"": what, **dict(zip(names, cells, strict=True))}


def _pair(config: DSCConfig) -> tuple[DSCConfig, DSCConfig]:
    """Return the network with standard convolutions, and with separable ones, or whatever the model has for them."""
    return (config, config.twin) if config.block == "standard" else (config.twin, config)


def _or_dash(value: Any, shape: str) -> str:
    return DASH if value is None else shape.format(value).replace("%", "\N{NO-BREAK SPACE}%")


def _percent(pair: list[float | None]) -> str:
    """Return the second of a pair as a share of the first; undefined where the first is not positive."""
    standard, separable = pair
    if standard is None or separable is None or standard <= 0.0:
        return "undefined"
    return _or_dash(separable / standard, "{:.0%}")
