"""The search behind a preset: networks around a base, trained alike, ranked by log-loss on unseen bars, timed a bar.

Every candidate walks through the folds of the recipe, as a model does, and its score is its mean log-loss on their test
blocks: on validation it stops early, and what does so longest looks best there. A range that ends where the unseen bars
of a later evaluation begin keeps the two apart. Whatever was tried counts when a Sharpe ratio is deflated. The network
that reads furthest back decides where the bars begin, so all are scored on the same ones.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from storage.authorship import Where
from storage.results import ResultStore, canonical_json
from storage.schema import ConfigError, DatasetRef
from storage.trials import Candidate, Origin, TrialLog
from tasks.execution.skill import log_losses
from tasks.market.labels import scored
from tasks.network.architecture import Block, DSCConfig, macs_per_bar, parameters, scaled
from tasks.network.fit import fit, predict_series
from tasks.network.latency import measure_latency
from tasks.strategy.folds import training_inputs
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import fold_bars, load_samples

Row = dict[str, str | int | float]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Which networks are tried: the base, and the base with one thing changed.

    Attributes:
        kernel_sizes, num_blocks, hidden_channels, windows: Values of each beside the base's own; channels of a member.
        blocks: Other blocks, with as many channels, whole eights a member, as cost about the base's multiply-adds.
        scales: Compound scalings of the base (`scaled`); 0 is the base.
        seeds: Each network is trained once with each; one of several members takes those that follow, too.
    """

    kernel_sizes: tuple[int, ...] = (5, 9)
    num_blocks: tuple[int, ...] = (1, 4)
    hidden_channels: tuple[int, ...] = (16, 64)
    windows: tuple[int, ...] = (16, 64)
    blocks: tuple[Block, ...] = ("separable", "xception", "standard")
    scales: tuple[int, ...] = (-2, 2)
    seeds: tuple[int, ...] = (7, 17)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ConfigError("seeds must hold at least one, had none")

    def networks(self, base: DSCConfig) -> tuple[DSCConfig, ...]:
        """Return the base and its variations, each once."""
        varied = [
            base,
            *(replace(base, kernel_size=taps) for taps in self.kernel_sizes),
            *(replace(base, num_blocks=blocks) for blocks in self.num_blocks),
            *(replace(base, hidden_channels=channels * base.members) for channels in self.hidden_channels),
            *(replace(base, window=window) for window in self.windows),
            *(_of_equal_cost(base, block) for block in self.blocks),
            *(scaled(base, scale) for scale in self.scales),
        ]
        return tuple(dict.fromkeys(varied))


def try_candidate(
    datasets: Where,
    searches: TrialLog[Candidate],
    data: DatasetRef,
    recipe: Recipe,
    network: DSCConfig,
    seed: int,
    longest: DSCConfig,
    origin: Origin,
) -> Candidate:
    """Return a candidate from the log, or train and log it.

    `longest` is the network of the search that reads furthest back.
    """
    slug = data.market.slug
    variant = replace(recipe, network=network, fit=replace(recipe.fit_config, seed=seed))
    made_from = {
        "dataset": data.id,
        "labels": recipe.labels,
        "round_trip": recipe.costs.round_trip,
        "folds": recipe.folds,
        "context": longest.context,
        **training_inputs(variant),
    }
    key = ResultStore.key("search", made_from)
    found = searches.find(data.source, slug, key)
    if found is not None:
        return found
    samples = load_samples(datasets, data, replace(recipe, network=longest))
    fits, losses = [], []
    for index, fold in enumerate(samples.folds):
        bars, rows = fold_bars(samples, variant, index), fold.test.rows
        fitted = fit(network, bars.series, bars.train, bars.validation, variant.fit_config)
        p = predict_series(fitted.model, bars.series.features, bars.series.segment)[bars.predicted][: len(fold.test)]
        classes = samples.labels.classes[rows]
        known = scored(classes, p)
        losses.append(log_losses(p[known], classes[known]))
        fits.append(fitted)
    candidate = Candidate(
        key=key,
        source=data.source,
        name=slug,
        origin=origin,
        log_loss=float(np.concatenate(losses).mean()),
        learned=float(np.mean([fitted.learned for fitted in fits])),
        seconds=sum(fitted.seconds for fitted in fits),
        made_from=json.loads(canonical_json(made_from)),
    )
    searches.append(candidate)
    return candidate


def ranked(
    searches: TrialLog[Candidate], data: DatasetRef, networks: Sequence[DSCConfig], tried: Sequence[Sequence[str]]
) -> list[Row]:
    """Return a line a network, best log-loss first, with the time of a bar in the engine.

    `tried` are the keys of each network's candidates, one a seed.
    """
    times = {row.config: row.p50_us for row in measure_latency(networks, 2_000, runtimes=("engine",))}
    rows: list[tuple[float, Row]] = []
    for network, keys in zip(networks, tried, strict=True):
        found = [searches.find(data.source, data.market.slug, key) for key in keys]
        losses = np.array([candidate.log_loss for candidate in found if candidate is not None])
        learned = np.array([candidate.learned for candidate in found if candidate is not None])
        row: Row = {
            "network": shape_text(network),
            "parameters": parameters(network),
            "MACs a bar": macs_per_bar(network),
            "p50 us": round(times[network], 2),
            "log-loss": round(float(losses.mean()), 5),
            "seeds apart": round(float(np.ptp(losses)), 5),
            "learned": round(float(learned.mean()), 5),
        }
        rows.append((float(losses.mean()), row))
    return [row for _, row in sorted(rows, key=lambda scored: scored[0])]


def shape_text(network: DSCConfig) -> str:
    """Return a network in a few words."""
    sizes = f"C={network.hidden_channels} B={network.num_blocks} K={network.kernel_size} W={network.window}"
    return f"{network.block} {sizes}" + (f" M={network.members}" if network.members > 1 else "")


def table_text(rows: Sequence[Row]) -> str:
    """Return the lines as a table for a terminal."""
    header = list(rows[0])
    lines = [header, *([f"{value}" for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _of_equal_cost(base: DSCConfig, block: Block) -> DSCConfig:
    widths = (channels * base.members for channels in range(8, 264, 8))
    other = [replace(base, block=block, hidden_channels=width) for width in widths]
    return min(other, key=lambda network: abs(macs_per_bar(network) - macs_per_bar(base)))
