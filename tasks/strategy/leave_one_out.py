"""What a pool's network knows of markets that it never saw: each market beside a network of the others.

A market that was just listed has no bars to learn from and too few to be judged by. What can be said of it is how far
networks of the same recipe forecast other markets that were as strange to them: each is predicted by a network that saw
neither it nor, in any market, the hours of its test.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np

from storage.authorship import Where
from storage.results import ResultStore
from storage.schema import DAY_MS, DatasetError, DatasetRef, FloatArray
from storage.trials import Origin
from tasks.execution.backtest import run_backtest
from tasks.execution.metrics import DAYS_PER_YEAR, Metrics, sharpe_ratio, total_return
from tasks.execution.significance import draws_for, stationary_bootstrap_test
from tasks.execution.skill import Skill, measure_skill
from tasks.market.labels import sample_uniqueness, scored
from tasks.strategy.funding_record import FundingRecord, funding_record
from tasks.strategy.out_of_sample import Evaluation, bars_of, evaluate_folds, judged_folds
from tasks.strategy.recipe import PoolMember, Recipe
from tasks.strategy.samples import load_samples

_NETWORKS = 5  # at most: of more markets several are left out at once, and the network of the others knows less of them
_FEWEST_BLOCKS = 20  # of days: with a handful a 5 % test is a 15 % one


@dataclass(frozen=True, kw_only=True)
class HeldOutMarket:
    """A market of a pool, and a recipe that it is strange to.

    Attributes:
        recipe: The pool's without it.
        fold: Key of what the recipe's newest network says of it; empty before it was trained.
    """

    data: DatasetRef
    recipe: Recipe
    fold: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutEvaluation:
    """What networks forecast of markets that they never saw, in the newest fold.

    Attributes:
        leads: Symbol -> how much less a network lost there than the prior, nat a label.
        skill: Of all of them, hour after hour: what happened to several at once counts once.
        metrics: An account on each, of equal capital, together; its largest drawdown is the worst account's.
        daily: (D,) return of every UTC day, mean of the accounts.
        funding: What the accounts together have booked of it.
        stressed_return: What is left of the same positions at costs times the promotion rule's factor.
        p_value: The chance of such a return by luck, one-sided; None where undefined or of too few days.
    """

    leads: dict[str, float]
    skill: Skill
    metrics: Metrics
    daily: FloatArray
    funding: FundingRecord
    stressed_return: float
    p_value: float | None


def held_out_markets(datasets: Where, data: DatasetRef, recipe: Recipe) -> Iterator[HeldOutMarket]:
    """Yield the pool's markets that have folds of their own, each with the recipe whose pool is the others.

    `data` is a market that the pool serves, and names source, category and interval.
    """
    parts = min(len(recipe.pool), _NETWORKS)
    for number in range(parts):
        left_out = recipe.pool[number::parts]
        others = replace(recipe, pool=tuple(member for member in recipe.pool if member not in left_out), refit=False)
        for one in map(PoolMember.of, left_out) if others.pool else ():
            ref = DatasetRef(id=one.dataset, source=data.source, market=replace(data.market, symbol=one.symbol))
            try:
                is_listing = load_samples(datasets, ref, others).is_listing
            except DatasetError:  # it was not traded in those hours: it teaches, and is not asked
                continue
            if not is_listing:
                yield HeldOutMarket(data=ref, recipe=others)


def evaluate_held_out(
    work: ResultStore, datasets: Where, trained: Sequence[HeldOutMarket], origin: Origin, level: float = 0.05
) -> HeldOutEvaluation:
    """Return what the networks forecast of markets that they never saw.

    `trained` are of one recipe and seed, one at least; the test of the return must be able to go below `level`.
    """
    each = [_evaluation(work, datasets, one) for one in trained]
    recipe = trained[0].recipe
    accounts = [one.money.model.metrics for one in each]
    daily, held = _mean_by_day(each), [account.mean_hold_bars or 0.0 for account in accounts]
    block = max(1.0, max(held) / each[0].samples.dataset.ref.market.bars_per_day)
    stressed = [_stressed_return(recipe, one) for one in each]
    together = replace(
        accounts[0],
        days=max(account.days for account in accounts),
        num_trades=sum(account.num_trades for account in accounts),
        total_return=float(np.mean([account.total_return for account in accounts])),
        max_drawdown=max(account.max_drawdown for account in accounts),
        sharpe_ratio=sharpe_ratio(daily, DAYS_PER_YEAR),
    )
    enough = daily.any() and len(daily) >= _FEWEST_BLOCKS * block
    symbols = [one.data.market.symbol for one in trained]
    return HeldOutEvaluation(
        leads={symbol: one.skill.log_loss_skill for symbol, one in zip(symbols, each, strict=True)},
        skill=_skill(each),
        metrics=together,
        daily=daily,
        funding=reduce(add, (funding_record(one.samples.dataset, one.unseen, recipe.costs, origin) for one in each)),
        stressed_return=float(np.mean(stressed)),
        p_value=stationary_bootstrap_test(daily, block, draws=draws_for(level)) if enough else None,
    )


def _evaluation(work: ResultStore, datasets: Where, held_out: HeldOutMarket) -> Evaluation:
    samples = load_samples(datasets, held_out.data, held_out.recipe)
    newest = replace(samples, folds=samples.folds[-1:])
    return evaluate_folds(newest, held_out.recipe, judged_folds(work, newest, [held_out.fold]))


def _skill(each: Sequence[Evaluation]) -> Skill:
    """Return the skill over all markets, their labels in the order of time: those of one hour overlap, too."""
    horizon, parts = each[0].samples.labels.horizon, []
    for one in each:
        samples, rows = one.samples, one.unseen.rows
        classes = samples.labels.classes[rows]
        known = scored(classes, one.probabilities)
        at = one.unseen.start + np.flatnonzero(known)
        prior = np.tile(one.folds[0].prior, (len(at), 1))
        own = sample_uniqueness(samples.labels, at).sum() / len(each)
        parts.append((samples.dataset.candles.start_ms[at], one.probabilities[known], classes[known], prior,
                      samples.labels.forward_return[at], own))  # fmt: skip
    clock, probabilities, classes, prior, earned = (np.concatenate(part) for part in list(zip(*parts, strict=True))[:5])
    order = np.argsort(clock, kind="stable")
    return measure_skill(
        probabilities[order],
        classes[order],
        prior[order],
        earned[order],
        overlap=horizon * len(each),
        bars_per_day=each[0].samples.dataset.ref.market.bars_per_day * len(each),
        effective_samples=float(sum(part[5] for part in parts)),
        seed=0,  # of a simulated perfect model, as anywhere
    )


def _mean_by_day(each: Sequence[Evaluation]) -> FloatArray:
    """Return (D,) the mean over the accounts of every UTC day's return; one that has not begun, or ended, earns 0."""
    first = [int(one.money.model.result.bars.start_ms[0]) // DAY_MS for one in each]
    last = max(begin + len(one.daily_returns) for begin, one in zip(first, each, strict=True))
    summed = np.zeros(last - min(first))
    for begin, one in zip(first, each, strict=True):
        summed[begin - min(first) : begin - min(first) + len(one.daily_returns)] += one.daily_returns
    return summed / len(each)


def _stressed_return(recipe: Recipe, one: Evaluation) -> float:
    samples, dearer = one.samples, recipe.costs.scaled(recipe.promotion.cost_stress)
    end = samples.training_end(samples.folds[0])
    return total_return(
        run_backtest(
            bars_of(samples, one.unseen), one.decided.target, dearer, recipe.backtest, **end, share=one.decided.share
        ).equity
    )
