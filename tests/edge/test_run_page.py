"""What a run shows: keys that Prefect takes, and cells that its UI can show."""

import json
import math
import re

import numpy as np
import pytest

from storage.schema import Market, Source
from tasks.run_page import page_key, shown

MARKET = Market(symbol="BTC-27MAR26", category="linear", interval="D")


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
        (np.float64(0.123456789), 0.123457),
        (np.int64(7), 7.0),
        (7, 7),
        (True, True),
        ("text", "text"),
    ],
)
def test_cell_is_plain_json_and_never_infinite(value, cell):
    assert shown(value) == cell
    assert json.loads(json.dumps(shown(value), allow_nan=False)) == cell


def test_what_is_neither_number_nor_text_fails_here_and_not_in_the_browser():
    with pytest.raises(TypeError):
        shown([1.0])
