"""A fault plan says which requests it means, in order."""

from __future__ import annotations

import pytest

from storage.schema import ConfigError
from tasks.sandbox.faults import KLINE_PATH, Action, Fault, Match, PlannedFaults

FIRST, SECOND = Action("first"), Action("second")


def taken(planned: PlannedFaults, count: int, path: str = KLINE_PATH, **params: str) -> list[str | None]:
    actions = [planned.take("GET", path, params) for _ in range(count)]
    return [action.name if action else None for action in actions]


def test_empty_plan_leaves_every_request_alone() -> None:
    assert taken(PlannedFaults(()), 3) == [None, None, None]


def test_fault_means_its_turns_alone() -> None:
    planned = PlannedFaults([Fault(Match(nth=1, times=2), FIRST)])
    assert taken(planned, 5) == [None, "first", "first", None, None]


def test_fault_without_an_end_lasts() -> None:
    assert taken(PlannedFaults([Fault(Match(nth=1, times=None), FIRST)]), 4) == [None] + ["first"] * 3


def test_first_fault_whose_turn_it_is_acts_and_all_of_them_count() -> None:
    planned = PlannedFaults([Fault(Match(nth=0), FIRST), Fault(Match(nth=0, times=2), SECOND)])
    assert taken(planned, 3) == ["first", "second", None]


def test_fault_counts_only_the_requests_that_it_matches() -> None:
    planned = PlannedFaults([Fault(Match(params={"start": "7"}, nth=1), FIRST)])
    assert taken(planned, 2, start="8") == [None, None]
    assert taken(planned, 2, start="7", limit="1") == [None, "first"]


def test_fault_on_one_path_leaves_others_alone_unless_it_means_any() -> None:
    planned = PlannedFaults([Fault(Match(), FIRST), Fault(Match(path=None), SECOND)])
    assert taken(planned, 1, path="/v5/market/time") == ["second"]
    assert taken(planned, 1) == ["first"]


def test_fault_on_reads_leaves_orders_alone() -> None:
    assert PlannedFaults([Fault(Match(), FIRST)]).take("POST", KLINE_PATH, {}) is None


def test_match_that_can_never_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match="nth must be >= 0, was -1"):
        Match(nth=-1)
    with pytest.raises(ConfigError, match="times must be >= 1, or None, was 0"):
        Match(times=0)
