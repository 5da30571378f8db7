"""The source text's headline table, its claims beside what was measured, separable and standard network each."""

from collections.abc import Iterator
from typing import Any

from storage.written import DASH, Row, or_dash, written
from tasks.network.architecture import DSCConfig, layer_macs, macs_per_window, parameters
from tasks.network.latency import RUNTIMES
from tasks.reporting.report_data import ReportData
from tasks.strategy.baseline_comparison import MODEL
from tasks.strategy.baseline_folds import twin_name

_CHANNELS, _TAPS, _BARS = 64, 9, 100  # the text's "64ch, 3x3" is K=9 in one dimension; its window has 100 bars


def headline_rows(data: ReportData) -> Iterator[Row]:
    """Return the table's lines; a number that was not measured is a dash."""
    config = data.manifest.recipe.network_config
    standard, separable = pair = _pair(config)
    other, one = (layer_macs(_CHANNELS, _TAPS, network.block) for network in pair)
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
        *(f"{parameters(network):,}" for network in pair), "norms, skip and head included",
    )  # fmt: skip
    yield _row(
        f"FLOPs of one window, {shape}", DASH, DASH,
        *(f"{2e-6 * macs_per_window(network):.2f}M" for network in pair), f"{config.context} bars",
    )  # fmt: skip
    yield from _times(data, config)
    yield from _results(data, config)
    layer, whole = one / other, macs_per_window(separable) / macs_per_window(standard)
    yield _row(
        "share of the standard's computation", "100 %", "~12 %", "100 %",
        f"{_or_dash(layer, '{:.1%}')} / {_or_dash(whole, '{:.1%}')}", "that layer / this network; counted, not timed",
    )  # fmt: skip


def _times(data: ReportData, config: DSCConfig) -> Iterator[Row]:
    times = {(row.runtime, row.config.kernel_size, row.config.block): row.p50_us for row in data.speed.rows}
    for runtime in RUNTIMES:
        what = "a new bar" if runtime == "engine" else "a window"
        pair = [times.get((runtime, _TAPS, network.block)) for network in _pair(config)]
        claimed = ("12.3 ms", "1.8 ms") if runtime == "eager torch" else (DASH, DASH)
        shown = [or_dash(us, "us") for us in pair]
        ratio = f"; separable takes {_or_dash(pair[1] / pair[0], '{:.0%}')}" if pair[0] and pair[1] else ""
        note = f"median, batch 1, one thread, C={config.hidden_channels}{ratio}"
        yield _row(f"CPU time of {what}, K={_TAPS}, {runtime}", *claimed, *shown, note)


def _results(data: ReportData, config: DSCConfig) -> Iterator[Row]:
    comparison, record, twin = data.comparison, data.record, twin_name(data.manifest.recipe)
    lines = [comparison.named(twin), comparison.named(MODEL)]
    weights: list[Any] = [comparison.facts[-1].get(twin, {}).get("weights_bytes"), len(data.training[-1].weights)]
    if config.block == "standard":
        lines.reverse()
        weights.reverse()
    accuracy = [None if line is None else line.accuracy for line in lines]
    sharpe = [None if line is None else line.sharpe_ratio for line in lines]
    spread = 1.96 * data.skill.accuracy_error
    yield _row(
        "accuracy on unseen bars", "54.2 %", "53.8 %", *(_or_dash(value, "{:.2%}") for value in accuracy),
        f"95 %: ± {written(spread, 'share')}; three classes, "
        f"most frequent {written(data.skill.majority_accuracy, 'share')}",
    )  # fmt: skip
    interval = record.caveat or f"95 % of the model's: {record.low:.2f} to {record.high:.2f}"
    yield _row("Sharpe ratio, net", "1.42", "1.38", *(_or_dash(value, "{:.2f}") for value in sharpe), interval)
    yield _row("weights, bytes", DASH, DASH, *(_or_dash(value, "{:,}") for value in weights), "safetensors, float32")
    yield _row(
        "share of the standard's performance", "100 %", "~98 %", "100 %",
        f"{_share(*accuracy)} / {_share(*sharpe)}", "accuracy / Sharpe ratio, this run",
    )  # fmt: skip


def _row(what: str, *cells: str) -> Row:
    names = ("claimed, standard", "claimed, separable", "measured, standard", "measured, separable", "note")
    return {"": what, **dict(zip(names, cells, strict=True))}


def _pair(config: DSCConfig) -> tuple[DSCConfig, DSCConfig]:
    """Return the network with standard convolutions, and with separable ones, or whatever the model has for them."""
    return (config, config.twin) if config.block == "standard" else (config.twin, config)


def _or_dash(value: Any, shape: str) -> str:
    return DASH if value is None else shape.format(value).replace("%", "\N{NO-BREAK SPACE}%")


def _share(standard: float | None, separable: float | None) -> str:
    """Return the second as a share of the first; undefined where the first is not positive."""
    if standard is None or separable is None or standard <= 0.0:
        return "undefined"
    return _or_dash(separable / standard, "{:.0%}")
