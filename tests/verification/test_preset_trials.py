"""The trials that chose the preset "default": their tables are whole, and what they kept is what the preset is."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.champion.promotion import PromotionRule
from tasks.network.architecture import macs_per_bar, preset
from tasks.network.fit_config import FitConfig

TRIALS = json.loads(Path(__file__).with_name("preset_trials.json").read_text())
TABLES = {table["name"]: table for table in TRIALS["tables"]}
NETWORK = preset("default")
ONE = replace(NETWORK, hidden_channels=NETWORK.hidden_channels // NETWORK.members, members=1, risk_head=False)
"""A member, without the row that is solved when its training is over."""


def rows(name: str) -> list[dict]:
    return [dict(zip(TABLES[name]["columns"], row, strict=True)) for row in TABLES[name]["rows"]]


@pytest.mark.parametrize("name", TABLES)
def test_table_says_how_it_was_made_and_every_row_fills_its_columns(name):
    assert TABLES[name]["made_by"]
    assert all(TABLES[name]["made_by"])
    assert TABLES[name]["units"]
    assert rows(name)
    for row in rows(name):
        assert all(isinstance(value, int | float | str | None) for value in row.values())


def test_as_many_trials_count_against_a_new_strategy():
    assert PromotionRule().other_trials == TRIALS["trials"]


def test_kept_training_and_kept_network_are_those_of_the_preset():
    (kept,) = (row for row in rows("training") if row["note"] == "kept")
    for name in ("num_blocks", "kernel_size", "window", "dropout"):
        assert kept[name] == getattr(NETWORK, name)
    for name in ("batch_segments", "segment_bars", "learning_rate", "weight_average", "seed"):
        assert kept[name] == getattr(FitConfig(), name)
    (network,) = (row for row in rows("network") if row["note"] == "kept")
    assert (network["changed"], network["macs"]) == (NETWORK.block, macs_per_bar(ONE))


def test_means_are_those_of_their_rows():
    for row in rows("teacher"):
        if row["mean"] is not None:
            years = [row[column] for column in ("y2025", "y2018a", "y2018b", "y2019")]
            assert sum(years) / 4 == pytest.approx(row["mean"], abs=0.1)  # each was rounded by itself
