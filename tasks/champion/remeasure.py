"""A stored version measured again: what it says of itself must come out again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from storage.artifacts import Artifact
from storage.authorship import Where
from storage.foreign import OTHERWISE, parse_json, refusing
from storage.schema import CLASSES, ArtifactError, DatasetRef
from storage.tables import read_columns
from tasks.champion.manifest import Manifest
from tasks.champion.promotion import PARITY_BOUND, Check
from tasks.champion.vol_verdict import judge_vol_forecast
from tasks.strategy.backtest_record import backtest_numbers
from tasks.strategy.baseline_comparison import compare_with_baselines, stored_forecasts
from tasks.strategy.folds import NO_HEAD, FoldResult
from tasks.strategy.out_of_sample import Evaluation, evaluate_folds
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import Samples, fold_bars, load_samples
from tasks.strategy.vol_forecast import VolForecastRecord, rate_again

_RATED_AGAIN = 3  # the first format that keeps all that a verdict on volatility is made of
_REPEATS = 1e-9  # relative; the same arithmetic on the same numbers, whatever the machine's rounding


@dataclass(frozen=True, kw_only=True)
class Reevaluation:
    """A version measured again.

    Attributes:
        rows: Name of a number, what the version says, what came out now; those that differ, and the headline ones.
        differences: Names of the numbers that differ.
        parity: Largest difference between stored and repeated probabilities of the published weights.
    """

    version: str
    rows: tuple[tuple[str, Any, Any], ...]
    differences: tuple[str, ...]
    parity: float

    def require_equal(self) -> None:
        """Refuse a version whose numbers do not come out again.

        Raises:
            ArtifactError: One does not.
        """
        if self.differences or not self.parity < PARITY_BOUND:
            raise ArtifactError(
                f"version {self.version} must give its stored numbers again; {len(self.differences)} differ "
                f"(first: {', '.join(self.differences[:3]) or 'none'}), probabilities by {self.parity:.1e}; "
                "was the code changed?"
            )

    def table(self) -> str:
        """Return the rows as a table for a terminal."""
        width = max(len(name) for name, _, _ in self.rows)
        lines = [f"  {name:<{width}}  {said!s:>22}  {found!s:>22}" for name, said, found in self.rows]
        return "\n".join([f"  {'':<{width}}  {'stored':>22}  {'again':>22}", *lines])

    def cells(self) -> list[dict[str, Any]]:
        """Return the rows for a page; of what differs every digit, for the shown ones might be the same."""
        return [
            {"number": name, "stored": said, "again": found}
            if name not in self.differences
            else {"number": f"{name}, differs", "stored": str(said), "again": str(found)}
            for name, said, found in self.rows
        ]


def remeasure(artifact: Artifact, datasets: Where) -> Reevaluation:
    """Predict and backtest a version's unseen bars again, rate what it forecast of volatility, and compare.

    Raises:
        PipelineError: The version or its dataset is damaged, or not as it is written.
    """
    ref, manifest = artifact.ref, Manifest.of(artifact.manifest, artifact.ref)
    recipe, data = manifest.recipe, DatasetRef(id=manifest.dataset, source=ref.source, market=manifest.market)
    samples = load_samples(datasets, data, recipe)
    with refusing(f"version {ref} is not as it is written", *OTHERWISE):
        evaluation = evaluate_folds(samples, recipe, stored_folds(artifact, samples, recipe))
        table = parse_json(artifact.files["baselines.json"])
        forecasts = stored_forecasts(artifact.files["baselines.parquet"])
        again = compare_with_baselines(recipe, evaluation, forecasts, table["folds"])
        said = dict(_leaves(parse_json(artifact.files["backtest.json"]))) | dict(
            _leaves(_by_name(table["table"]), "baselines")
        )
        found = dict(_leaves(backtest_numbers(evaluation))) | dict(
            _leaves(_by_name([asdict(line) for line in again.table]), "baselines")
        )
        if artifact.manifest["format"] >= _RATED_AGAIN:
            risk = rate_again(samples, recipe, evaluation.folds, artifact.files["risk.parquet"])
            risk = replace(
                risk, held_out=VolForecastRecord.of(dict(artifact.files)).held_out
            )  # their networks are not kept
            said |= _vol_leaves(parse_json(artifact.files["risk.json"]), manifest.risk)
            found |= _vol_leaves(asdict(risk), judge_vol_forecast(risk, recipe.risk))
    # Of what the version says: code of a later day may measure more.
    differences = tuple(name for name in sorted(said) if not _same(said[name], found.get(name)))
    headline = [f"metrics.model.{name}" for name in ("total_return", "sharpe_ratio", "max_drawdown", "num_trades")]
    of_volatility = [name for name in said if name.startswith("volatility verdict")]
    shown = dict.fromkeys([*headline, "skill.log_loss", "skill.accuracy", *of_volatility, *differences])
    return Reevaluation(
        version=str(ref),
        rows=tuple((name, said.get(name), found.get(name)) for name in shown),
        differences=differences,
        parity=_repeat_predictions(artifact, recipe, evaluation),
    )


def stored_folds(artifact: Artifact, samples: Samples, recipe: Recipe) -> list[FoldResult]:
    """Return the folds' results that a version keeps; only the last fold has weights.

    Raises:
        LookupError, ValueError: Its files are not as they are written; any of `foreign.OTHERWISE`.
    """
    predictions = read_columns(artifact.files["predictions.parquet"])
    probabilities = np.column_stack([predictions[f"p_{name}"] for name in CLASSES])
    unforeseen = np.full(len(probabilities), np.nan)  # format 1 knows no risk
    said = {
        "probabilities": probabilities,
        "log_variance_ratio": predictions.get("log_variance_ratio", unforeseen),
    }
    lengths = [len(samples.fold(index).test) for index in range(len(samples.folds) + recipe.refit)]
    cuts = np.cumsum(lengths)[:-1]
    split = {name: np.split(column, cuts) for name, column in said.items()}
    parts = [{name: blocks[index] for name, blocks in split.items()} for index in range(len(lengths))]
    facts = [{"risk": asdict(NO_HEAD), **fact} for fact in parse_json(artifact.files["folds.json"])]
    weights = [b""] * (len(facts) - 1) + [artifact.files["weights.safetensors"]]
    return [FoldResult.of_facts(*one) for one in zip(facts, weights, parts, strict=True)]


def _repeat_predictions(artifact: Artifact, recipe: Recipe, evaluation: Evaluation) -> float:
    """Return the largest difference between stored probabilities and the published weights' own; a refit has none."""
    from tasks.champion.prediction import forecast_history  # with torch: who deploys the flow does without

    fold = evaluation.samples.fold(len(evaluation.folds) - 1)
    if not len(fold.test):
        return 0.0
    bars = fold_bars(evaluation.samples, recipe, len(evaluation.folds) - 1)
    weights = artifact.files["weights.safetensors"]
    said = forecast_history(recipe.network_config, weights, bars.series.features, bars.series.segment)
    again = said.probabilities[bars.predicted]
    stored = evaluation.folds[-1].probabilities
    if not np.array_equal(np.isnan(again), np.isnan(stored)):
        return float("inf")
    return float(np.nanmax(np.abs(again - stored)))


def _vol_leaves(record: Mapping[str, Any], verdict: Sequence[Check]) -> dict[str, Any]:
    """Return the numbers of a volatility record, by who forecast it, and each condition of the verdict."""
    numbers = {**record, "scores": _by_name(record["scores"]), "held_out": {}}
    conditions = {check.name: check.passed for check in verdict}
    return dict(_leaves(numbers, "risk")) | dict(_leaves(conditions, "volatility verdict"))


def _by_name(table: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in table}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _same(one: Any, other: Any) -> bool:
    if one == other:
        return True
    try:
        return bool(np.allclose(np.asarray(one, float), np.asarray(other, float), rtol=_REPEATS, atol=1e-12))
    except (TypeError, ValueError):  # text, nothing at all, or another shape
        return False
