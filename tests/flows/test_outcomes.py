"""How one market of many ended, in one line that is fit for a terminal, a table and an alert."""

from __future__ import annotations

import pytest

from storage.schema import Market, StoreError
from tasks.fan_out import Outcome


@pytest.mark.promise(18)
def test_error_of_a_market_shows_no_key_and_steers_no_terminal() -> None:
    err = OSError("can't reach https://me:hunter2@host/data?token=hunter2 \x1b[31mred\x1b[0m")
    (line, row) = (Outcome.of(Market(), err).line, Outcome.of(Market(), err).row())
    assert line == "SYNTHUSDT linear 5m: FAILED - OSError: can't reach https://...@host/data?... [31mred [0m"
    assert row["ended"] == "FAILED: OSError: can't reach https://...@host/data?... [31mred [0m"


@pytest.mark.parametrize(
    ("err", "said"),
    [(StoreError("no\nroom"), "StoreError: no room"), (ValueError(), "ValueError: no reason was given")],
)
def test_error_of_several_lines_or_none_is_one_line(err: Exception, said: str) -> None:
    assert Outcome.of(Market(), err).error == said
