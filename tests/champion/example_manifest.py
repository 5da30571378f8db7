"""A manifest with nothing remarkable in it: a test changes what it is about."""

from dataclasses import replace

from storage.schema import FEATURES, Market
from tasks.champion.manifest import Manifest, Summary
from tasks.champion.promotion import Check, Judgement, Numbers
from tasks.execution.comparison_rows import ComparisonRow
from tasks.execution.metrics import Metrics
from tasks.execution.track_record import DeflatedSharpe
from tasks.strategy.recipe import Recipe

METRICS = Metrics(
    total_return=0.05, sharpe_ratio=1.0, sortino_ratio=1.4, max_drawdown=0.1, max_drawdown_bars=40, num_trades=40,
    win_rate=0.5, profit_factor=1.2, expectancy_bp=3.0, mean_hold_bars=5.0, turnover_per_day=2.0, exposure=0.4,
    mean_weight=0.38, gross_return=0.08, fees_paid=2_000.0, slippage_paid=900.0, funding_paid=100.0, cost_drag=0.03,
    cost_share_of_gross=0.375, break_even_cost_per_side=0.0012, sharpe_per_bar=1.1, sortino_per_bar=1.5, cagr=None,
    calmar=None, days=81.0,
)  # fmt: skip
MANIFEST = Manifest(
    features=FEATURES,
    market=Market(),
    origin="exchange",
    origin_detail="",
    dataset="d" * 16,
    recipe=Recipe().resolved,
    code="c" * 64,
    libraries={"python": "3.11.7"},
    trained_until_ms=0,
    label_span_ms=0,
    class_means=(-1.0, 0.0, 1.0),
    judgement=Judgement(
        champion="flat",
        sequence=0,
        checks=(),
        numbers=Numbers(
            champion=None,
            challenger=METRICS,
            second_seed=None,
            luck=DeflatedSharpe(trials=1, spread=1.0, expected_best=0.0, deflated=None),
        ),
    ),
    risk=(Check(name="risk is foreseen", passed=False, found="no", wanted="a forecast"),),
    summary=Summary(
        days=81.0,
        lines=(ComparisonRow(name="this model", total_return=0.05, sharpe_ratio=1.0),),
        sharpe_low=None,
        sharpe_high=None,
        edge_bp=None,
        warnings=(),
    ),
)


def judged_against(sequence: int, **changed: object) -> Manifest:
    """Return the manifest of a version that was compared with the champion of that number."""
    return replace(MANIFEST, judgement=replace(MANIFEST.judgement, sequence=sequence), **changed)
