"""The verdict on a new listing: its pool's network is served if such networks forecast held-out markets.

The conditions are the promotion rule's, asked of markets that networks never saw; what is asked of the network itself,
speed, parity and leaks, is the version's own. Its own few days decide nothing but where they speak against it. Once it
has a champion, or bars of its own to learn from, the ordinary rule judges it.
"""

from dataclasses import replace

from storage.written import written
from tasks.champion.promotion import Check, Evidence, checked, judge, p_text
from tasks.champion.vol_verdict import LED
from tasks.execution.skill import Skill
from tasks.execution.track_record import DeflatedSharpe
from tasks.strategy.leave_one_out import HeldOutEvaluation
from tasks.strategy.promotion_rule import PromotionRule

FEWEST_HELD_OUT = 3
"""Markets that networks never saw: of fewer nothing follows for one more."""


def held_out_evidence(
    own: Evidence, found: HeldOutEvaluation, second: HeldOutEvaluation | None, luck: DeflatedSharpe
) -> Evidence:
    """Return what the promotion rule looks at with the held-out markets' skill and money in place of a market's own.

    `own` is of the version's own days, `luck` of the held-out markets' days among all trials.
    """
    numbers = replace(
        own.numbers,
        champion=replace(found.metrics, total_return=0.0, max_drawdown=0.0, num_trades=0),
        challenger=found.metrics,
        second_seed=None if second is None else second.metrics,
        luck=luck,
    )
    return replace(
        own,
        numbers=numbers,
        skill=found.skill,
        funding=found.funding,
        stressed_return=found.stressed_return,
        p_value=found.p_value,
    )


def judge_listing(held_out: Evidence, found: HeldOutEvaluation, own: Skill, rule: PromotionRule) -> tuple[Check, ...]:
    """Return every condition, passed or failed, the second seed's last.

    `own` is what the network forecast of the market's own days.
    """
    worst, symbol = min((lead, symbol) for symbol, lead in found.leads.items())
    led = sum(lead > 0 for lead in found.leads.values())
    against = own.p_value is not None and own.p_value > 1 - rule.significance
    first = (
        checked(
            "markets that networks never saw, better than the prior",
            led >= LED * len(found.leads),
            f"{led} of {len(found.leads)}, worst {symbol} {written(worst, 'signed nat')}",
            f">= {written(LED, 'share')}",
        ),
        checked(
            "own days do not refute it",
            not against,
            f"{written(own.log_loss_skill, 'signed nat')} over the prior, {p_text(own.p_value)}",
            f"p <= {1 - rule.significance:g}",
        ),
    )
    *others, last = judge(held_out, rule)
    if last.passed is None and not all(check.passed for check in (*first, *others)):
        last = replace(last, found="not run: other conditions failed")
    return (*first, *others, last)
