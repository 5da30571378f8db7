"""On markets without a signal, at next to no costs, the main job trades a lot and promotes nothing."""

import json

import pytest

from tasks.strategy.promotion_rule import PromotionRule
from tests.verification import null_markets, promoted_seeds
from tests.verification.null_markets import TABLE, is_promoted, line, tally

FOUND = json.loads(TABLE.read_text())
PROMOTED, *_, KEPT = json.loads(promoted_seeds.TABLE.read_text())


@pytest.mark.promise(13)
@pytest.mark.parametrize("row", FOUND, ids=[row["arguments"] for row in FOUND])
def test_market_without_a_signal_was_traded_and_not_promoted(row):
    assert not is_promoted(row)
    assert f"--synthetic.kind null --synthetic.seed {FOUND.index(row)} " in row["arguments"]
    assert row["this model"]["num_trades"] >= PromotionRule().min_trades  # else it is kept out by holding nothing


def test_tally_counts_promotions_and_what_kept_the_others_out():
    first, *failed = tally([PROMOTED, KEPT, KEPT])
    assert first.startswith("1 of 3 promoted, 0 expected")
    assert "one at p < 0.05 would by itself let 0.15 pass" in first
    assert "   2 kept out by closed trades" in failed
    assert len(failed) == sum(passed is False for passed, _ in KEPT["checks"].values())


def test_line_names_every_condition_that_failed():
    said = line(3, KEPT)
    assert said.startswith("   3  NOT PROMOTED       0 trades    +0.00%  closed trades: 0; direction of moves")
    assert [name for name, (passed, _) in KEPT["checks"].items() if f"{name}: " in said] == [
        name for name, (passed, _) in KEPT["checks"].items() if passed is False
    ]


def test_costs_are_next_to_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(null_markets, "judged", lambda *arguments: asked.append(arguments) or {})
    null_markets.of_seed(4)
    ((*_, commission, _, slippage),) = asked
    assert (float(commission), float(slippage)) == (1e-6, 0.0)
