"""What the report says of a stored version: the golden one, measured again by today's code."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pytest

from storage.schema import DatasetRef, VersionRef
from tasks.champion.manifest import Manifest, Summary
from tasks.champion.remeasure import stored_folds
from tasks.execution.track_record import track_record
from tasks.ingestion.quality import StoredQuality
from tasks.reporting.content import report_data
from tasks.reporting.evidence import highlights, record_measures, skill_measures
from tasks.reporting.headline import headline_rows
from tasks.reporting.report import render_report
from tasks.reporting.report_data import ReportData
from tasks.reporting.summary import summarise
from tasks.runs.cost import Cost
from tasks.strategy.baseline_comparison import BaselineComparison
from tasks.strategy.findings import Findings
from tasks.strategy.leak_report import LeakReport
from tasks.strategy.out_of_sample import evaluate_folds
from tasks.strategy.promotion_rule import PromotionRule
from tasks.strategy.samples import load_samples
from tasks.strategy.speed import speed_of
from tests.golden.make_golden import EXCHANGE, MARKET, restore
from tests.reporting.example_report import RISKS


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A version's parts as the report takes them."""

    ref: VersionRef
    manifest: Manifest
    findings: Findings
    forecasts: bytes

    def report(self) -> ReportData:
        return report_data(
            self.ref, datetime(2026, 1, 4, tzinfo=UTC), self.manifest, self.findings, self.forecasts,
            (), (), StoredQuality(gaps=0, longest_gap=0, quarantined=0),
            Cost(stages=(), peak_mb=0.0),
        )  # fmt: skip

    def summary(self) -> Summary:
        return summarise(self.manifest.recipe, self.findings.evaluation, self.findings.comparison, self.manifest.origin)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    home = tmp_path_factory.mktemp("golden") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSC_HOME", str(home))
        patch.delenv("DSC_ARTIFACT_URL", raising=False)
        store = restore(home)
        artifact = store.load(store.champion(EXCHANGE.source, MARKET.slug).ref, source=EXCHANGE.source)
        manifest = Manifest.of(artifact.manifest, artifact.ref)
        data = DatasetRef(id=manifest.dataset, source=EXCHANGE.source, market=manifest.market)
        samples = load_samples(home / "datasets", data, manifest.recipe)
        yield Stored(
            ref=artifact.ref,
            manifest=manifest,
            findings=Findings(
                evaluation=evaluate_folds(samples, manifest.recipe, stored_folds(artifact, samples, manifest.recipe)),
                speed=speed_of(artifact.files["latency.json"]),
                leaks=LeakReport(checks=()),
                comparison=BaselineComparison.of(artifact.files["baselines.json"]),
                risk=RISKS,
            ),
            forecasts=artifact.files["baselines.parquet"],
        )


def measures(report: ReportData):
    manifest = report.manifest
    record = record_measures(report.record, manifest.judgement.numbers.luck, manifest.recipe.promotion.other_trials)
    return {measure.name: measure for measure in (*highlights(report), *record, *skill_measures(report.skill))}


def test_version_says_again_what_its_manifest_says_of_it(stored):
    # The program of that day warned of funding rates of a market that is made up, and not of a rule that asks little.
    assert replace(stored.summary(), warnings=()) == replace(stored.manifest.summary, warnings=())


def test_promotion_rule_that_asks_for_less_than_the_default_is_warned_of(stored):
    def warned(rule):
        recipe = replace(stored.manifest.recipe, promotion=rule)
        said = summarise(recipe, stored.findings.evaluation, stored.findings.comparison, "synthetic").warnings
        return [warning for warning in said if warning.startswith("The promotion rule asks for less")]

    assert warned(PromotionRule()) == []
    (said,) = warned(PromotionRule(min_trades=0, significance=0.5, min_days=60.0))
    assert "min_trades 0 (100)" in said
    assert "significance 0.5 (0.05)" in said
    assert "min_days" not in said  # asks for more


@pytest.mark.parametrize(("origin", "warnings"), [("synthetic", 0), ("replayed", 1), ("exchange", 1)])
def test_missing_funding_rates_are_warned_of_where_there_are_any_to_know(stored, origin, warnings):
    assert not len(stored.findings.evaluation.samples.dataset.funding_ms)
    said = summarise(stored.manifest.recipe, stored.findings.evaluation, stored.findings.comparison, origin).warnings
    unpaid = r"The funding rate is known of 0 of \d+ settlements in the unseen time: at the others none was paid"
    assert sum(re.match(unpaid, warning) is not None for warning in said) == warnings


def test_edge_of_a_move_stands_beside_the_hit_rate_in_report_and_summary(stored):
    evaluation = stored.findings.evaluation
    rows = evaluation.unseen.rows
    classes, earned = evaluation.samples.labels.classes[rows], evaluation.samples.labels.forward_return[rows]
    moved = (classes >= 0) & (classes != 1) & np.isfinite(evaluation.probabilities).all(axis=1)
    side = np.sign(evaluation.probabilities[moved, 2] - evaluation.probabilities[moved, 0])
    edge = 1e4 * np.mean(side * earned[moved])
    found = measures(stored.report())["Mean edge of a move, before costs"]
    assert found.value == pytest.approx(edge, rel=1e-12)
    assert found.low < edge < found.high
    assert stored.summary().edge_bp == pytest.approx(edge, rel=1e-12)
    model = stored.summary().lines[0]
    said_up = evaluation.probabilities[moved, 2] > evaluation.probabilities[moved, 0]
    assert model.direction == pytest.approx(np.mean(said_up == (classes[moved] == 2)), rel=1e-12)


def test_card_shows_the_lead_over_the_best_baseline_with_its_chance(stored):
    losses = {line.name: line.log_loss for line in stored.findings.comparison.table if line.log_loss is not None}
    better = min(("logistic regression", "LightGBM"), key=losses.__getitem__)
    assert losses[better] < losses["prior"]
    card = measures(stored.report())["Lead over the best baseline"]
    assert card.note.startswith(f"log-loss, over {better}; p")
    assert card.value == pytest.approx(losses[better] - losses["this model"], rel=1e-9)
    assert card.low < card.value < card.high
    assert card.note.endswith("Diebold-Mariano")


def test_card_shows_the_lead_over_the_prior_when_every_baseline_is_worse_than_that(stored):
    worse = tuple(
        replace(line, log_loss=9.0, lead=7.9) if line.name in ("logistic regression", "LightGBM") else line
        for line in stored.findings.comparison.table
    )
    comparison = replace(stored.findings.comparison, table=worse)
    card = highlights(replace(stored, findings=replace(stored.findings, comparison=comparison)).report())[2]
    assert card.note.startswith("log-loss, over prior; p")
    assert card.value == pytest.approx(stored.findings.evaluation.skill.log_loss_skill, abs=0.01)


def test_card_and_summary_say_that_too_few_trades_prove_nothing(stored):
    evaluation = stored.findings.evaluation
    evaluation = replace(evaluation, record=track_record(evaluation.daily_returns, 1))
    sparse = replace(stored, findings=replace(stored.findings, evaluation=evaluation))
    report = sparse.report()
    card = measures(report)["Sharpe ratio, daily"]
    assert (card.low, card.high, card.note) == (None, None, "too few trades to judge: 1 of 30")
    assert card.doubtful
    assert (sparse.summary().sharpe_low, sparse.summary().sharpe_high) == (None, None)
    assert "too few trades to judge: 1 of 30" in {row["note"] for row in headline_rows(report)}
    assert "too few trades to judge: 1 of 30" in render_report(report)
    enough = measures(stored.report())["Sharpe ratio, daily"]
    assert (enough.note, enough.low < enough.value < enough.high) == ("95 % interval by stationary bootstrap", True)


def test_costs_are_swept_by_deciding_again_with_the_same_positions_beside(stored):
    points = stored.report().costs
    costs_bp = [1e4 * point.per_side for point in points]
    assert costs_bp == pytest.approx([0.0, 2.0, 5.5, 10.0, 11.0, 15.0, 16.5, 22.0], rel=1e-12)
    (assumed,) = (point for point in points if point.assumed)
    assert assumed.decided == assumed.repriced == stored.findings.evaluation.money.model.metrics
    trades = [point.decided.num_trades for point in points]
    assert trades[0] > assumed.decided.num_trades > trades[-1]
    assert points[0].decided.total_return != points[0].repriced.total_return
    assert "same positions re-priced" in render_report(stored.report())
