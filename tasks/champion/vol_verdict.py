"""The verdict on volatility: whether a version forecasts how much its market will move, whatever it knows of direction.

Kept apart from the promotion: a version that never trades may hold it, and a champion may not. It is on record in every
version's manifest, and a version that sizes its positions by the forecast volatility is promoted only with it.
"""

from collections.abc import Iterator, Sequence

from storage.written import written
from tasks.champion.promotion import Check, checked, is_below, p_text
from tasks.execution.vol_skill import FAR_BEYOND, LEVELS
from tasks.network.vol_baselines import EWMA, HAR, TREES
from tasks.strategy.vol_forecast import NETWORK, VolForecastRecord
from tasks.strategy.vol_forecast_rule import VolForecastRule

LED = 0.9
"""Share of the markets that networks never saw in which a condition must hold: a new listing is one more of them."""


def judge_vol_forecast(record: VolForecastRecord, rule: VolForecastRule) -> tuple[Check, ...]:
    """Return every condition, passed or failed, with its numbers; of a version that forecasts none, that alone.

    Of a new listing each is asked of markets that networks of its pool never saw: it must hold in nearly all of them.
    """
    if record.held_out:
        return tuple(_held_out_checks(record, rule))
    if not record.scores:
        return (checked("risk is foreseen", False, "no: no risk head, or too few windows", "a forecast"),)
    return tuple(_checks(record, rule))


def vol_forecast_holds(checks: Sequence[Check]) -> bool:
    """Return whether every condition holds."""
    return all(check.passed for check in checks)


def vol_forecast_line(checks: Sequence[Check]) -> str:
    """Return the verdict in one line."""
    failed = [check for check in checks if not check.passed]
    if not failed:
        return f"holds: {', '.join(f'{check.name} {check.found}' for check in checks[1:3])}"
    return f"does not hold: {'; '.join(f'{check.name} {check.found}, asked {check.wanted}' for check in failed)}"


def _held_out_checks(record: VolForecastRecord, rule: VolForecastRule) -> Iterator[Check]:
    each = {symbol: {one.name: one for one in judge_vol_forecast(its, rule)} for symbol, its in record.held_out.items()}
    for name, first in max(each.values(), key=len).items():
        asked = {symbol: checks.get(name) for symbol, checks in each.items()}  # None where no volatility was forecast
        failed = {symbol: check for symbol, check in asked.items() if check is None or not check.passed}
        held = len(asked) - len(failed)
        said = "".join(f", {symbol} {check.found if check else 'unforeseen'}" for symbol, check in failed.items())
        wanted = f"{first.wanted} in {written(LED, 'share')} of markets that networks never saw"
        yield checked(name, held >= LED * len(asked), f"{held} of {len(asked)}{said}", wanted)
    ewma = record.named(EWMA)  # None where its own days hold no whole window
    found = (
        "too few to tell" if ewma is None else f"QLIKE {ewma.lead:+.3f} better than {EWMA}'s, {p_text(ewma.p_value)}"
    )
    against = ewma is not None and ewma.p_value is not None and ewma.p_value > 1 - rule.significance
    yield checked("own days do not refute it", not against, found, f"p <= {1 - rule.significance:g}")


def _checks(record: VolForecastRecord, rule: VolForecastRule) -> Iterator[Check]:
    scores = {score.name: score for score in record.scores}
    ours = scores[NETWORK]
    yield checked(
        "unseen windows", record.windows >= rule.min_windows, f"{record.windows:.0f}", f">= {rule.min_windows:g}"
    )
    for rival in (EWMA, HAR):
        theirs = scores[rival]
        lead = theirs.lead or 0.0
        yield checked(
            f"QLIKE better than {rival}'s",
            lead > 0 and is_below(theirs.p_value, rule.significance),
            f"{ours.qlike:.3f} against {theirs.qlike:.3f}, {p_text(theirs.p_value)}",
            f"smaller, p < {rule.significance:g}",
        )
    ratio = ours.qlike / scores[TREES].qlike
    yield checked(
        f"QLIKE near {TREES}'s",
        ratio <= 1 + rule.lightgbm_margin,
        f"{ratio:.3f} of its {scores[TREES].qlike:.3f}",
        f"<= {1 + rule.lightgbm_margin:g}",
    )
    yield checked("R2 of ln RV", ours.log_r2 >= rule.least_r2, f"{ours.log_r2:.2f}", f">= {rule.least_r2:g}")
    yield checked(
        f"windows beyond {FAR_BEYOND:g}x the expected risk",
        ours.exceeding <= rule.most_exceeding,
        written(ours.exceeding, "share"),
        f"<= {written(rule.most_exceeding, 'share')}",
    )
    off = max(abs(share - level) for share, level in zip(record.below, LEVELS, strict=True))
    yield checked(
        "calibration of quantiles",
        off <= rule.calibration_margin,
        f"off by {off:.3f} at most",
        f"<= {rule.calibration_margin:g}",
    )
