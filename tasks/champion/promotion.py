"""The promotion rule: what a challenger must show before it replaces the champion. The default answer is to keep.

`flat` is the first champion, so a first model must beat doing nothing. Every condition is shown with its numbers,
passed or failed; one failure keeps the champion.

Last of all the recipe must earn with a second seed too: at an equal log-loss the money of two seeds is far apart, and a
result that only one of them has is luck. That costs one more training of the folds, so it is asked for where nothing
else failed.
"""

import math
from dataclasses import dataclass

from storage.schema import DAY_MS
from storage.written import written
from tasks.champion.expiry import UP_TO_DATE, LastBar
from tasks.execution.metrics import Metrics
from tasks.execution.skill import Skill
from tasks.execution.track_record import FEWEST_TRADES, DeflatedSharpe, too_few_trades
from tasks.strategy.funding_record import FundingRecord
from tasks.strategy.promotion_rule import PromotionRule


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition with its numbers.

    Attributes:
        passed: Whether it holds; None where it was not run.
        found: The number, with its unit.
        wanted: The bound, with its unit.
    """

    name: str
    passed: bool | None
    found: str
    wanted: str


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What both sides came to on bars that neither had seen; None where there were none.

    Attributes:
        champion, challenger: At the assumed costs.
        second_seed: The challenger's recipe with another seed; None where it was not asked for.
        luck: How the challenger stands among all trials.
    """

    champion: Metrics | None
    challenger: Metrics | None
    second_seed: Metrics | None
    luck: DeflatedSharpe


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the rule looks at; everything on bars that neither side was trained on, at the same costs.

    Attributes:
        champion: Version of the champion, or "flat".
        last_bar: The newest of the challenger's unseen bars.
        skill: Of the challenger's probabilities on all its unseen bars.
        funding: What of it the challenger's account has booked on these bars.
        stressed_return: The challenger's positions' total return with the costs times `cost_stress`.
        p_value: Stationary bootstrap, one-sided: the chance of such a lead in return by luck; None where undefined.
        latency_p99_us: One bar through the compiled engine, microseconds.
        parity: Largest difference between the ways to run the model, logits.
        baseline: Name of the baseline with the smallest log-loss.
        baseline_lead: Its log-loss less the challenger's on the same labels, nat; negative where it is better.
        looks: How many versions were compared with this champion, this one included.
        leaks: Names of the leak tests that failed; None where they were not run, which does not pass.
        risk: Names of the conditions of its verdict on volatility that failed; None where nothing is sized by it.
        spoken_against: What was said against the same version before; empty where nothing was.
    """

    champion: str
    numbers: Numbers
    last_bar: LastBar
    skill: Skill
    funding: FundingRecord
    stressed_return: float
    p_value: float | None
    latency_p99_us: float
    parity: float
    baseline: str
    baseline_lead: float
    looks: int = 1
    leaks: tuple[str, ...] | None = None
    risk: tuple[str, ...] | None = None
    spoken_against: str = ""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How a challenger compared with the champion of that moment.

    Attributes:
        champion: Version of the champion, or "flat".
        sequence: The champion's number in its history: a promotion holds only against this one.
        numbers: Of both sides on the same unseen bars.
    """

    champion: str
    sequence: int
    checks: tuple[Check, ...]
    numbers: Numbers

    @property
    def awaits_second_seed(self) -> bool:
        """Whether the second seed alone is missing: every other condition holds."""
        *others, last = self.checks
        return last.passed is None and all(check.passed for check in others)

    @property
    def passed(self) -> bool:
        """Whether every condition holds."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the conditions that do not hold, without one that was not run."""
        return tuple(check.name for check in self.checks if check.passed is False)


PARITY_BOUND = 1e-5
"""Largest difference of logits between the ways to run one model."""


def judge(evidence: Evidence, rule: PromotionRule) -> tuple[Check, ...]:
    """Return every condition, passed or failed, in the order in which a sceptic asks; the second seed's is the last."""
    checks = _first_seed(evidence, rule)
    if evidence.spoken_against and all(check.passed for check in checks):  # else that is why, as it was before
        found = f"{evidence.spoken_against}; retrain on newer bars"
        checks = (*checks, checked("no earlier verdict against it", False, found, "none"))
    return (*checks, _second_seed(evidence, all(check.passed for check in checks)))


def _first_seed(evidence: Evidence, rule: PromotionRule) -> tuple[Check, ...]:
    return (
        *_enough(evidence, rule),
        *_forecast(evidence, rule),
        *_money(evidence, rule),
        *_model(evidence, rule),
        *_sizing(evidence),
    )


def _enough(evidence: Evidence, rule: PromotionRule) -> tuple[Check, ...]:
    """Return whether there is enough to judge by: days that neither side has seen, up to now, and trades on them."""
    ours, last = evidence.numbers.challenger, evidence.last_bar
    days, trades = (ours.days, ours.num_trades) if ours else (0.0, 0)
    return (
        checked("unseen days", days >= rule.min_days, f"{days:.0f}", f">= {rule.min_days:.0f}"),
        checked("closed trades", trades >= rule.min_trades, f"{trades}", f">= {rule.min_trades}"),
        checked(UP_TO_DATE, last.is_up_to_date, str(last), f"<= {last.most_ms / DAY_MS:g} days"),
    )


def _forecast(evidence: Evidence, rule: PromotionRule) -> tuple[Check, ...]:
    """Return whether the probabilities know more than the class shares do, and no less than a simple model."""
    skill = evidence.skill
    return (
        checked(
            "log-loss better than the prior",
            skill.log_loss_skill > 0 and is_below(skill.p_value, rule.significance),
            f"{written(skill.log_loss_skill, 'signed nat')}, {p_text(skill.p_value)}",
            f"> 0, p < {rule.significance}",
        ),
        # Volatility alone can make holds foreseeable, so the condition above says nothing of direction.
        checked(
            "direction of moves better than prior and 50:50",
            skill.direction_skill is not None
            and skill.direction_skill > 0
            and is_below(skill.direction_p_value, rule.significance),
            _direction(skill),
            f"> 0, p < {rule.significance}",
        ),
        checked(
            "log-loss near the better baseline",
            evidence.baseline_lead >= -rule.baseline_margin,
            f"{written(evidence.baseline_lead, 'signed nat')} against {evidence.baseline}",
            f">= {written(-rule.baseline_margin, 'signed nat')}",
        ),
    )


def _money(evidence: Evidence, rule: PromotionRule) -> tuple[Check, ...]:
    """Return whether the decisions earn, all costs known, more than the champion's and more than luck would."""
    ours, theirs = evidence.numbers.challenger, evidence.numbers.champion
    # Where there is nothing to compare on, NaN fails every condition about money.
    earned, drawdown = (ours.total_return, ours.max_drawdown) if ours else (math.nan, math.nan)
    champion_earned, champion_drawdown = (theirs.total_return, theirs.max_drawdown) if theirs else (math.nan, math.nan)
    # A champion that held nothing on these bars lost nothing: no challenger could trade within a multiple of that.
    drawdown_bound = rule.max_drawdown if champion_drawdown == 0 else rule.drawdown_ratio * champion_drawdown
    alpha = rule.alpha(evidence.looks)
    return (
        checked("funding known", evidence.funding.is_whole, str(evidence.funding), "all"),
        checked(
            f"net result at {rule.cost_stress:g}x costs",
            evidence.stressed_return > 0,
            written(evidence.stressed_return, "signed share"),
            "> 0 %",
        ),
        checked(
            f"beats the champion ({evidence.champion})",
            earned > champion_earned and is_below(evidence.p_value, alpha),
            f"{written(earned, 'signed share')} against {written(champion_earned, 'signed share')}, "
            f"{p_text(evidence.p_value, alpha)}",
            f"greater, p < {alpha:.2g}" + (f", look {evidence.looks}" if evidence.looks > 1 else ""),
        ),
        _deflated(evidence.numbers.luck, rule, ours.num_trades if ours else 0),
        checked(
            "maximum drawdown",
            drawdown <= drawdown_bound,
            written(drawdown, "share"),
            f"<= {written(drawdown_bound, 'share')}",
        ),
    )


def _model(evidence: Evidence, rule: PromotionRule) -> tuple[Check, ...]:
    """Return whether the model is what it says: as sure as it is right, fast, one in every runtime, without a leak."""
    excess = evidence.skill.calibration_error - evidence.skill.perfect_calibration_error
    return (
        checked(
            "calibration error above a perfect model's",
            excess <= rule.calibration_margin,
            written(excess, "signed chance"),
            f"<= {rule.calibration_margin}",
        ),
        checked(
            "latency p99 per bar",
            evidence.latency_p99_us < rule.latency_budget_us,
            f"{evidence.latency_p99_us:.1f} us",
            f"< {rule.latency_budget_us:.0f} us",
        ),
        checked(
            "all ways to run it agree",
            evidence.parity < PARITY_BOUND,
            f"{evidence.parity:.1e}",
            f"< {PARITY_BOUND:.0e}",
        ),
        checked(
            "leak tests",
            evidence.leaks == (),
            "not run" if evidence.leaks is None else ", ".join(evidence.leaks) or "all green",
            "all green",
        ),
    )


def _sizing(evidence: Evidence) -> tuple[Check, ...]:
    """Return what is asked of a version that sizes its positions by what it forecasts of volatility."""
    if evidence.risk is None:
        return ()
    failed = f"failed: {', '.join(evidence.risk)}" if evidence.risk else "all hold"
    return (checked("verdict on the risk that sizes positions", not evidence.risk, failed, "all hold"),)


def _second_seed(evidence: Evidence, others_hold: bool) -> Check:
    name, wanted = "second seed: net result", "> 0 %"
    first, second = evidence.numbers.challenger, evidence.numbers.second_seed
    if first is None or second is None:
        found = "to be trained" if others_hold else "not run: other conditions failed"
        return Check(name=name, passed=None, found=found, wanted=wanted)
    found = f"{written(second.total_return, 'signed share')}, first seed {written(first.total_return, 'signed share')}"
    return checked(name, second.total_return > 0, found, wanted)


def _deflated(luck: DeflatedSharpe, rule: PromotionRule, trades: int) -> Check:
    """Return whether it is more than the luckiest of all trials; to lead over a champion that bleeds is not enough."""
    missing = too_few_trades(trades) if trades < FEWEST_TRADES else "undefined"
    shown = missing if luck.deflated is None else f"{luck.deflated:.3f}"
    return checked(
        "deflated Sharpe ratio",
        luck.deflated is not None and luck.deflated >= rule.deflated_sharpe,
        f"{shown}, {luck.trials} trial{'' if luck.trials == 1 else 's'}",
        f">= {rule.deflated_sharpe:g}",
    )


def _direction(skill: Skill) -> str:
    if skill.direction_skill is None:
        return "undefined"
    lead = written(skill.direction_skill, "signed nat")
    return f"{lead} against {skill.direction_reference}, {p_text(skill.direction_p_value)}"


def checked(name: str, passed: bool, found: str, wanted: str) -> Check:
    """Return a condition that was looked at, with its numbers."""
    return Check(name=name, passed=bool(passed), found=found, wanted=wanted)


def is_below(p_value: float | None, bound: float) -> bool:
    """Return whether a p-value is known and smaller than its bound."""
    return p_value is not None and p_value < bound


def p_text(p_value: float | None, bound: float = 0.05) -> str:
    """Return a p-value as a condition says it; with two digits where the bound is as small."""
    if p_value is None:
        return "p undefined"
    if bound < 0.005:
        return f"p = {p_value:.2g}"
    return "p < 0.001" if p_value < 0.0005 else f"p = {p_value:.3f}"
