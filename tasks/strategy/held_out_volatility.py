"""What a pool's network forecasts of the risk of markets that it never saw: all that speaks for it in a new listing."""

from collections.abc import Sequence
from dataclasses import replace

from storage.authorship import Where
from storage.results import ResultStore
from tasks.strategy.leave_one_out import HeldOutMarket
from tasks.strategy.out_of_sample import judged_folds
from tasks.strategy.provenance import code_behind
from tasks.strategy.risk_rivals import rivals_of_pool
from tasks.strategy.samples import load_samples
from tasks.strategy.vol_forecast import VolForecastRecord, record_vol_forecasts


def held_out_key(own: str, trained: Sequence[HeldOutMarket]) -> str:
    """Return the key of `with_held_out`: everything that it depends on, `own` the key of the listing's own record."""
    made_from = {
        "own": own,
        "held_out": [(one.data.id, one.fold) for one in trained],
        "baselines": trained[0].recipe.baselines,
        "code": code_behind("tasks.strategy.held_out_volatility", known=("tasks.strategy.recipe",)),
    }
    return ResultStore.key("risk", made_from)


def with_held_out(
    work: ResultStore, datasets: Where, own: dict[str, bytes], trained: Sequence[HeldOutMarket]
) -> dict[str, bytes]:
    """Return a listing's record with those of markets that networks of its pool never saw, in the newest fold.

    The rivals there learned from the network's own bars, so that they never saw the market either. `own` is what
    `record_vol_forecasts` made of the listing's own days; `trained` are one at least.
    """
    records = {}
    for one in trained:
        samples = load_samples(datasets, one.data, one.recipe)
        newest = replace(samples, folds=samples.folds[-1:])
        rivals = rivals_of_pool(datasets, newest, one.recipe)
        files = record_vol_forecasts(newest, one.recipe, judged_folds(work, newest, [one.fold]), rivals)
        records[one.data.market.symbol] = VolForecastRecord.of(files)
    return own | {"risk.json": replace(VolForecastRecord.of(own), held_out=records).file()}
