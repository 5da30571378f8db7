"""One bar for a whole run: it grows, by what its stages are worth, and ends at the end."""

from uuid import UUID

import pytest
from prefect import flow
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.runs import overall
from tasks.runs.overall import OverallProgress, root_run


@pytest.fixture
def told(monkeypatch) -> list[tuple[float, str]]:
    monkeypatch.setattr(overall, "_WEIGHTS", {"networks": 6.0, "baselines": 2.0})
    monkeypatch.setattr(overall, "_EVERY_S", -1.0)
    return []


def test_share_is_what_the_stages_before_are_worth_and_of_this_one_what_is_done(told):
    progress = OverallProgress(("ingest", "networks", "baselines", "publish"), lambda *said: told.append(said))
    progress.stage("ingest", 0, 1)
    progress.advance(0.5)
    progress.stage("networks", 1, 3)
    progress.advance(0.5)
    progress.stage("publish", 0, 1)
    progress.stage("publish", 1, 1)
    assert told == [
        (0.0, "ingest"),
        (0.05, "ingest"),
        (0.3, "networks, 2 of 3"),
        (0.4, "networks, 2 of 3"),
        (0.9, "publish"),
        (1.0, "done"),
    ]


def test_bar_never_goes_back_when_a_step_within_a_stage_begins_anew(told):
    progress = OverallProgress(("baselines", "publish"), lambda *said: told.append(said[0]))
    progress.stage("baselines", 0, 1)
    for share in (0.2, 0.9, 0.1, 0.95):
        progress.advance(share)
    assert told == pytest.approx([0.0, 0.4 / 3, 1.8 / 3, 1.9 / 3])


def test_steps_of_one_market_do_not_count_as_the_market_being_done(told):
    progress = OverallProgress(("ingest", "markets"), lambda *said: told.append(said))
    progress.stage("ingest", 0, 2)
    progress.stage("ingest", 0, 1)  # the flow inside says so of itself
    progress.advance(1.0)
    progress.stage("markets", 0, 2)
    progress.stage("networks", 0, 2)
    progress.advance(1.0)
    progress.stage("markets", 1, 2)
    assert told == [
        (0.0, "ingest, 1 of 2"),
        (0.25, "ingest, 1 of 2"),
        (0.5, "markets, 1 of 2"),
        (0.75, "markets, 2 of 2"),
    ]


def test_advance_is_not_told_more_often_than_the_ui_can_be_asked_and_a_stage_always_is(told, monkeypatch):
    monkeypatch.setattr(overall, "_EVERY_S", 3_600.0)
    progress = OverallProgress(("networks", "publish"), lambda *said: told.append(said[0]))
    progress.stage("networks", 0, 2)
    for number in range(1_000):
        progress.advance(number / 1_000)
    progress.stage("networks", 1, 2)
    assert told == pytest.approx([0.0, 3.0 / 7])


def test_what_comes_before_any_stage_is_not_told(told):
    progress = OverallProgress(("networks",), lambda *said: told.append(said))
    progress.advance(0.5)
    assert told == []


def test_root_of_a_flow_inside_another_is_asked_for_once(prefect_api):
    @flow
    def inside() -> UUID | None:
        found = root_run()
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
            assert root_run() == found
        return found

    @flow
    def outside() -> tuple[str, UUID | None, UUID | None]:
        return flow_run.id, root_run(), inside()

    own, root, root_of_inside = outside()
    assert root == root_of_inside == UUID(own)
    assert root_run() is None
