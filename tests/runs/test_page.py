"""What a run shows: keys that Prefect takes, and cells written as in the report."""

import math
import re

import numpy as np
import pytest

from storage.schema import Market, Source
from tasks.runs import page as run_page
from tasks.runs.page import page_key, put_table

MARKET = Market(symbol="BTC-27MAR26", category="linear", interval="D")


@pytest.fixture
def shown(monkeypatch) -> list:
    tables: list = []
    monkeypatch.setattr(run_page, "create_table_artifact", lambda rows, key, description: tables.append(rows))
    return tables


def test_key_has_lower_case_letters_digits_and_dashes_only():
    key = page_key("data-quality", Source("sandbox:0123abcd"), MARKET)
    assert key == "data-quality-sandbox-0123abcd-linear-btc-27mar26-d"
    assert re.fullmatch(r"[a-z0-9-]+", key)


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (math.inf, "undefined"),
        (-math.inf, "undefined"),
        (math.nan, "undefined"),
        (None, "undefined"),
        (np.float64(0.123456789), "0.1235"),
        (1_234_567.0, "1,234,567.00"),
        (np.int64(-7), "\N{MINUS SIGN}7"),
        (131_040, "131,040"),
        (True, "yes"),
        ("text", "text"),
    ],
)
def test_cell_is_text_as_the_report_writes_it_and_never_infinite(value, cell, shown):
    put_table("what", [{"found": value}], "about")
    assert shown == [[{"found": cell}]]


def test_what_is_neither_number_nor_text_fails_here_and_not_in_the_browser(shown):
    with pytest.raises(TypeError):
        put_table("what", [{"found": [1.0]}], "about")


def test_table_that_is_too_wide_for_a_page_is_refused(shown):
    with pytest.raises(ValueError, match="a table must have 3 columns at most, had 4: a, b, c, d"):
        put_table("what", [dict.fromkeys("abcd", 1)], "about")
