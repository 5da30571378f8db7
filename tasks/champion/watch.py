"""Whether what was true of a champion when it was judged still is: its market's features, its skill, its confidence.

Both are looked at hourly, and a false alarm an hour is no alarm: what is called wrong must hold for two blocks that
share no bar, or be far beyond what chance does to labels that overlap.
"""

import numpy as np

from storage.artifacts import ArtifactStore
from storage.authorship import Where
from storage.candles import CandleStore, Coverage
from storage.schema import FEATURES, PipelineError, VersionRef
from storage.snapshots import load_dataset
from storage.written import written
from tasks.champion.manifest import read_manifest, training_shares
from tasks.execution.skill import lost_calibration, lost_skill, measure_skill
from tasks.market import features
from tasks.market.drift import measure_drift
from tasks.market.labels import label_bars, sample_uniqueness, scored
from tasks.market.walk_forward import seen_until_ms

_LEAST_LABELS = 10  # non-overlapping ones: fewer say nothing about anything


def champion_drift(
    ref: VersionRef, row: Coverage, models: ArtifactStore, store: CandleStore, datasets: Where, bars: int
) -> tuple[str, bool]:
    """Compare the newest stored bars with those that the champion was trained on.

    Blocks of `bars`, >= 1, are compared, the newest two; nothing is where the dataset lies on another machine.

    Returns:
        What was found, in words, and whether both blocks differ by more than blocks of the training bars do.

    Raises:
        ArtifactError: The version is damaged.
    """
    manifest, interval_ms = read_manifest(models, ref), row.market.interval_ms
    try:
        trained = load_dataset(datasets, manifest.dataset)
    except PipelineError:
        return f"not measured: dataset {manifest.dataset} is not on this machine", False
    until_ms = manifest.trained_until_ms
    train = trained.features[trained.candles.start_ms <= until_ms]
    span_ms = (features.WARM_UP + 2 * bars) * interval_ms
    newest = store.read(row.source, row.market, (row.last_ms or 0) - span_ms + interval_ms)
    recent = features.build_features(newest.matrix(), interval_ms).values[newest.start_ms > until_ms][-2 * bars :]
    if len(recent) < 2 * bars:
        return f"not measured: {len(recent):,} of {2 * bars:,} new bars", False
    earlier, drift = measure_drift(train, recent[:bars]), measure_drift(train, recent[bars:])
    if drift is None or earlier is None:
        return f"not measured: too few blocks of {bars:,} bars in training", False
    found = (
        f"{FEATURES[drift.feature]} has {drift.ratio:.2f} of its limit, {drift.limit:.2f} is 1 block in 100 "
        f"(PSI {drift.index[drift.feature]:.3f})"
    )
    return found, drift.breached and earlier.breached


def champion_skill(
    ref: VersionRef, row: Coverage, models: ArtifactStore, store: CandleStore, labels: int
) -> tuple[str, dict[str, str]]:
    """Judge a champion by the newest labels that have matured, on bars that it was not trained on.

    `labels` are the most; fewer than 10 that do not overlap are not judged.

    Returns:
        What was found, in words, and what is wrong: "skill" where its log-loss is beyond chance worse than that of the
        class shares in its training, "calibration" where it is right less or more often than it says, by more than its
        promotion allowed and beyond chance.

    Raises:
        ArtifactError: The version is damaged.
    """
    from tasks.champion.prediction import forecast_history  # with torch: most looks at a market find no champion

    manifest = read_manifest(models, ref)
    recipe, interval_ms = manifest.recipe, row.market.interval_ms
    horizon, network = recipe.labels.horizon, recipe.network_config
    span_ms = (features.WARM_UP + network.context + labels + horizon + 1) * interval_ms
    candles = store.read(row.source, row.market, (row.last_ms or 0) - span_ms + interval_ms)
    built = features.build_features(candles.matrix(), interval_ms)
    known = label_bars(candles.open, built.vol, built.segment, recipe.labels, recipe.costs.round_trip)
    weights = models.read(ref, "weights.safetensors")
    probabilities = forecast_history(network, weights, built.values, built.segment).probabilities
    is_unseen = candles.start_ms > seen_until_ms(manifest.training_end)
    rows = np.flatnonzero(scored(known.classes, probabilities) & is_unseen)[-labels:]
    if len(rows) < _LEAST_LABELS * horizon:
        return f"not measured: {len(rows):,} of {_LEAST_LABELS * horizon:,} new labels", {}
    skill = measure_skill(
        probabilities[rows],
        known.classes[rows],
        training_shares(models, ref),
        known.forward_return[rows],
        overlap=horizon,
        bars_per_day=row.market.bars_per_day,
        effective_samples=float(sample_uniqueness(known, rows).sum()),
        seed=0,
    )
    found = (
        f"log-loss {skill.log_loss:.4f} nat, prior {skill.prior_log_loss:.4f}, over {skill.samples:,} labels; "
        f"right {written(skill.accuracy, 'share')} +/- {written(1.96 * skill.accuracy_error, 'share')}, "
        f"says {written(skill.confidence, 'share')}"
    )
    wrong = {}
    if lost_skill(skill):
        wrong["skill"] = f"the champion forecasts less than the class shares do: {found}; roll back or run retrain"
    if lost_calibration(skill, recipe.promotion.calibration_margin):
        wrong["calibration"] = f"the champion is not right as often as it says: {found}; run retrain"
    return found, wrong
