"""A challenger against the champion of the moment, on bars that neither has seen: every condition, with its numbers."""

import math
from collections.abc import Sequence

import numpy as np

from storage.artifacts import ArtifactStore
from storage.champion_log import ChampionEntry
from storage.schema import ArtifactError, DatasetRef, FloatArray, UnreachableError
from storage.trials import Origin, sharpe_per_strategy
from tasks.champion.expiry import LastBar
from tasks.champion.listing_verdict import held_out_evidence, judge_listing
from tasks.champion.looks import Looked, hash_of, looked_at
from tasks.champion.manifest import Manifest, read_manifest
from tasks.champion.promotion import Evidence, Judgement, Numbers, judge
from tasks.champion.vol_verdict import judge_vol_forecast
from tasks.execution.backtest import Positions
from tasks.execution.comparison import Duel, duel
from tasks.execution.track_record import DeflatedSharpe, deflate_sharpe
from tasks.market.walk_forward import Span, seen_until_ms
from tasks.strategy.findings import Findings
from tasks.strategy.folds import FoldResult
from tasks.strategy.funding_record import funding_record
from tasks.strategy.leave_one_out import HeldOutEvaluation
from tasks.strategy.out_of_sample import Evaluation, Forecast, bars_of, decide_span, one_after_the_other
from tasks.strategy.recipe import Recipe

_FEWEST_BARS = 2  # fewer make no return


def judge_challenger(
    store: ArtifactStore,
    recipe: Recipe,
    findings: Findings,
    origin: Origin,
    now_ms: int,
    second_seed: Sequence[FoldResult] = (),
) -> Judgement:
    """Compare a challenger with the champion on bars that neither has seen.

    `second_seed` are the folds of `recipe.second_seed`; none before it is asked for.
    """
    data = findings.evaluation.samples.dataset.ref
    entry, looked = store.champion(data.source, data.market.slug), looked_at(store, data.source, data.market.slug)
    evidence = _evidence(store, entry, looked, recipe, findings, origin, now_ms, second_seed)
    checks = judge(evidence, recipe.promotion)
    return Judgement(champion=entry.champion, sequence=entry.sequence, checks=checks, numbers=evidence.numbers)


def judge_new_listing(
    store: ArtifactStore,
    recipe: Recipe,
    findings: Findings,
    origin: Origin,
    now_ms: int,
    found: HeldOutEvaluation,
    second: HeldOutEvaluation | None = None,
) -> Judgement:
    """Judge the pool's network for a market that has no bars to learn from, by markets that such networks never saw.

    `found` is what networks forecast of such markets; `second` the same with the second seed, None before it is asked
    for.
    """
    data = findings.evaluation.samples.dataset.ref
    entry, looked = store.champion(data.source, data.market.slug), looked_at(store, data.source, data.market.slug)
    own = _evidence(store, entry, looked, recipe, findings, origin, now_ms)
    luck = _deflated_sharpe(looked, recipe, found.daily, found.metrics.num_trades)
    held_out = held_out_evidence(own, found, second, luck)
    checks = judge_listing(held_out, found, findings.evaluation.skill, recipe.promotion)
    return Judgement(champion=entry.champion, sequence=entry.sequence, checks=checks, numbers=held_out.numbers)


def _evidence(
    store: ArtifactStore,
    entry: ChampionEntry,
    looked: Looked,
    recipe: Recipe,
    findings: Findings,
    origin: Origin,
    now_ms: int,
    second_seed: Sequence[FoldResult] = (),
) -> Evidence:
    """Return what the rule looks at."""
    evaluation = findings.evaluation
    data = evaluation.samples.dataset.ref
    hash8 = hash_of(recipe, evaluation)
    looks = looked.looks(hash8)
    fought = _duel(recipe, evaluation, store, entry, second_seed, looks)
    best, is_sized = findings.comparison.better_baseline, recipe.decision_config.sizing == "volatility"
    risk = tuple(check.name for check in judge_vol_forecast(findings.risk, recipe.risk) if not check.passed)
    numbers = Numbers(
        champion=fought.champion.metrics if fought else None,
        challenger=fought.challenger.metrics if fought else None,
        second_seed=fought.second.metrics if fought and fought.second else None,
        luck=_deflated_sharpe(looked, recipe, evaluation.daily_returns, evaluation.money.model.metrics.num_trades),
    )
    return Evidence(
        champion=entry.champion,
        numbers=numbers,
        last_bar=_last_bar(evaluation, origin, now_ms),
        skill=evaluation.skill,
        funding=funding_record(evaluation.samples.dataset, evaluation.unseen, recipe.costs, origin),
        stressed_return=fought.stressed.metrics.total_return if fought else math.nan,
        p_value=fought.p_value if fought else None,
        latency_p99_us=findings.speed.model.p99_us,
        parity=findings.speed.parity,
        baseline=best.name,
        baseline_lead=math.nan if best.lead is None else best.lead,
        looks=looks,
        leaks=findings.leaks.failed,
        risk=risk if is_sized else None,
        spoken_against=_spoken_against(store, data, hash8),
    )


def _last_bar(evaluation: Evaluation, origin: Origin, now_ms: int) -> LastBar:
    dataset = evaluation.samples.dataset
    interval_ms = dataset.ref.market.interval_ms
    closed_ms = int(dataset.candles.start_ms[evaluation.unseen.stop - 1]) + interval_ms
    return LastBar(age_ms=now_ms - closed_ms, interval_ms=interval_ms, has_present=origin == "exchange")


def _deflated_sharpe(looked: Looked, recipe: Recipe, daily: FloatArray, trades: int) -> DeflatedSharpe:
    """Return how (D,) daily returns stand among all that was tried on a market."""
    tried = np.array(sharpe_per_strategy(looked.trials))
    return deflate_sharpe(daily, tried, recipe.promotion.other_trials + looked.searched, trades=trades)


def _spoken_against(store: ArtifactStore, data: DatasetRef, hash8: str) -> str:
    """Return what was said against a version of this hash; empty where there is none, or nothing was.

    A judgement that kept it out, which its page says for good; or a person who rolled it back, or a version that
    replaced it, which a second run on the same bars does not undo.

    Raises:
        UnreachableError: The store does not answer.
    """
    *before, present = (entry.ref for entry in store.history(data.source, data.market.slug))
    for stored in store.whole_versions(data.source, data.market.slug):
        if stored.hash8 != hash8 or stored == present:
            continue
        if stored in before:
            return f"{stored.version} was the champion before"
        try:
            if not read_manifest(store, stored).judgement.passed:
                return f"{stored.version} was kept out"
        except UnreachableError:  # nobody knows what was said
            raise
        except ArtifactError:
            continue  # a damaged one is published anew, with the new judgement
    return ""


def _duel(
    recipe: Recipe,
    evaluation: Evaluation,
    store: ArtifactStore,
    entry: ChampionEntry,
    second_seed: Sequence[FoldResult],
    looks: int,
) -> Duel | None:
    """Run challenger, champion and second seed on the bars that none had seen; None where there are none."""
    samples, span = evaluation.samples, evaluation.unseen
    end = samples.training_end(samples.folds[0])
    champion = Positions(np.zeros(len(span), np.int8))  # flat
    if entry.ref is not None:
        try:
            artifact = store.load(entry.ref, source=samples.dataset.ref.source)
            theirs = Manifest.of(artifact.manifest, entry.ref)
        except ArtifactError as err:
            raise ArtifactError(f"the champion can't be compared with: {err}; roll it back (flows.rollback)") from err
        end = theirs.training_end
        unseen_from = np.searchsorted(samples.dataset.candles.start_ms, seen_until_ms(end), side="right")
        span = Span(start=max(int(unseen_from), span.start), stop=span.stop)
        if len(span) < _FEWEST_BARS:
            return None
        from tasks.champion.prediction import forecast_history  # with torch, which a run loads late

        data, weights = samples.dataset, artifact.files["weights.safetensors"]
        said = forecast_history(theirs.recipe.network_config, weights, data.features, data.segment)
        forecast = Forecast(*said, class_means=np.array(theirs.class_means)).since(span.start)
        champion = decide_span(samples, theirs.recipe, span, forecast)

    def decided(folds: Sequence[FoldResult]) -> Positions:
        # From flat, as the champion: a position that was opened before the span would be one side's alone.
        forecast = one_after_the_other(folds).since(span.start - evaluation.unseen.start)
        return decide_span(samples, recipe, span, forecast)

    return duel(
        bars_of(samples, span),
        decided(evaluation.folds),
        champion,
        recipe.costs,
        recipe.backtest,
        second=decided(second_seed) if second_seed else None,
        cost_stress=recipe.promotion.cost_stress,
        bars_per_year=samples.dataset.ref.market.bars_per_year,
        horizon=recipe.labels.horizon,
        level=recipe.promotion.alpha(looks),
        **end,
    )
