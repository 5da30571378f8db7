"""The search behind a preset: networks around a base, trained alike, ranked by validation log-loss, timed by the bar.

Every candidate trains on the bars of the refit and is scored on the newest `validation_share` of the dataset. On the
range of an evaluation that is the evaluation's last test block: give a search an `end` where the unseen bars begin, and
the two stay apart. Whatever was tried counts when a Sharpe ratio is deflated. The network that reads furthest back
decides where the bars begin, so all are scored on the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.schema import ConfigError, DatasetRef
from storage.searches import Candidate, SearchLog
from storage.settings import Settings
from storage.workfolder import WorkFolder, canonical_json
from tasks.network.architecture import Block, DSCConfig, macs_per_bar, parameters, scaled
from tasks.network.fit import fit
from tasks.network.latency import measure_latency as time_networks
from tasks.recipe import Recipe
from tasks.training import fold_inputs, load_samples

Row = dict[str, str | int | float]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Which networks are tried: the base, and the base with one thing changed.

    Attributes:
        kernel_sizes, num_blocks, hidden_channels, windows: Values of each beside the base's own.
        blocks: Other blocks, with as many channels, whole eights, as cost about the base's multiply-adds.
        scales: Compound scalings of the base (`scaled`); 0 is the base.
        seeds: Each network is trained once with each.
    """

    kernel_sizes: tuple[int, ...] = (5, 9)
    num_blocks: tuple[int, ...] = (1, 4)
    hidden_channels: tuple[int, ...] = (16, 64)
    windows: tuple[int, ...] = (16, 64)
    blocks: tuple[Block, ...] = ("xception", "inverted", "standard")
    scales: tuple[int, ...] = (-2, 2)
    seeds: tuple[int, ...] = (7, 8)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ConfigError("seeds must hold at least one, had none")

    def networks(self, base: DSCConfig) -> tuple[DSCConfig, ...]:
        """Return the base and its variations, each once."""
        varied = [
            base,
            *(replace(base, kernel_size=taps) for taps in self.kernel_sizes),
            *(replace(base, num_blocks=blocks) for blocks in self.num_blocks),
            *(replace(base, hidden_channels=channels) for channels in self.hidden_channels),
            *(replace(base, window=window) for window in self.windows),
            *(_of_equal_cost(base, block) for block in self.blocks),
            *(scaled(base, scale) for scale in self.scales),
        ]
        return tuple(dict.fromkeys(varied))


# As with folds: a killed search finds its finished candidates in the log, by the hash of what they were made from.
@task(cache_policy=NO_CACHE, task_run_name="try {network.block} C={network.hidden_channels} seed {seed}")
def try_network(data: DatasetRef, recipe: Recipe, network: DSCConfig, seed: int, longest: DSCConfig) -> str:
    """Train a network on all but the newest bars, log what it scores on those, and return its key.

    Args:
        data: The dataset.
        recipe: Labels and training.
        network: What is tried.
        seed: Of this training.
        longest: The network of the search that reads furthest back.
    """
    candidate = _candidate(data, recipe, network, seed, longest)
    get_run_logger().info(f"tried {_shape(network)} seed={seed} log_loss={candidate.log_loss:.5f} key={candidate.key}")
    return candidate.key


def _candidate(data: DatasetRef, recipe: Recipe, network: DSCConfig, seed: int, longest: DSCConfig) -> Candidate:
    """Return the candidate from the log, or train and log it."""
    settings, slug = Settings.from_environment(), data.market.slug
    searches = SearchLog(settings.artifact_url)
    variant = replace(recipe, network=network, fit=replace(recipe.fit_config, seed=seed))
    made_from = fold_inputs(data, variant, recipe.folds.folds) | {"context": longest.context}
    key = WorkFolder.key("search", made_from)
    known = searches.find(data.source, slug, key)
    if known is not None:
        return known
    samples = load_samples(data, replace(recipe, network=longest))
    train, validation = ((part.start, part.stop) for part in (samples.refit.train, samples.refit.validation))
    fitted = fit(network, samples.series, train, validation, variant.fit_config)
    candidate = Candidate(
        key=key,
        source=data.source,
        name=slug,
        log_loss=fitted.validation_loss,
        learned=fitted.history[0].validation_loss - fitted.history[-1].best_loss,
        seconds=fitted.seconds,
        made_from=json.loads(canonical_json(made_from)),
    )
    searches.append(candidate)
    return candidate


@task(cache_policy=NO_CACHE, task_run_name="rank networks {data.market.symbol}")
def rank_networks(data: DatasetRef, networks: Sequence[DSCConfig], tried: Sequence[Sequence[str]]) -> str:
    """Return the table of all networks, best log-loss first, and show it in the Prefect UI.

    Args:
        data: The dataset that they were tried on.
        networks: Each network.
        tried: Its candidates' keys, one a seed.
    """
    searches = SearchLog(Settings.from_environment().artifact_url)
    times = {row.config: row.p50_us for row in time_networks(networks, 2_000, runtimes=("engine",))}
    rows: list[tuple[float, Row]] = []
    for network, keys in zip(networks, tried, strict=True):
        found = [searches.find(data.source, data.market.slug, key) for key in keys]
        losses = np.array([candidate.log_loss for candidate in found if candidate is not None])
        learned = np.array([candidate.learned for candidate in found if candidate is not None])
        row: Row = {
            "network": _shape(network),
            "parameters": parameters(network),
            "MACs a bar": macs_per_bar(network),
            "p50 us": round(times[network], 2),
            "log-loss": round(float(losses.mean()), 5),
            "seeds apart": round(float(np.ptp(losses)), 5),
            "learned": round(float(learned.mean()), 5),
        }
        rows.append((float(losses.mean()), row))
    ranked = [row for _, row in sorted(rows, key=lambda scored: scored[0])]
    create_table_artifact(ranked, key="search", description=f"Networks on {data.market}, by validation log-loss")
    return _table(ranked)


def _of_equal_cost(base: DSCConfig, block: Block) -> DSCConfig:
    other = [replace(base, block=block, hidden_channels=channels) for channels in range(8, 264, 8)]
    return min(other, key=lambda network: abs(macs_per_bar(network) - macs_per_bar(base)))


def _shape(network: DSCConfig) -> str:
    sizes = f"C={network.hidden_channels} B={network.num_blocks} K={network.kernel_size} W={network.window}"
    return f"{network.block} {sizes}"


def _table(rows: Sequence[Row]) -> str:
    header = list(rows[0])
    lines = [header, *([f"{value}" for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
