"""A version measured again: what it says of risk must come out again too."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from storage.settings import Settings
from tasks.champion.remeasure import remeasure
from tests.golden.make_golden import EXCHANGE, MARKET, restore


@pytest.fixture
def artifact(home: Any) -> Any:
    store = restore(home)
    return store.load(store.champion(EXCHANGE.source, MARKET.slug).ref, source=EXCHANGE.source)


@pytest.mark.promise(8)
def test_verdict_on_risk_comes_out_again_and_a_number_that_does_not_is_named(artifact: Any) -> None:
    datasets = Settings.from_environment().datasets
    again = remeasure(artifact, datasets)
    assert again.differences == ()
    shown = {name: (said, found) for name, said, found in again.rows}
    conditions = {name: pair for name, pair in shown.items() if name.startswith("volatility verdict")}
    assert len(conditions) >= 6
    assert all(said is found for said, found in conditions.values())

    record = json.loads(artifact.files["risk.json"])
    record["scores"][0]["qlike"] *= 1.001
    other = replace(artifact, files={**artifact.files, "risk.json": json.dumps(record).encode()})
    assert remeasure(other, datasets).differences == ("risk.scores.this model.qlike",)
