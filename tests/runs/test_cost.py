"""What a run costs: every second of it belongs to one of its stages."""

import time

import pytest

from tasks.runs.cost import CostMeter


@pytest.fixture
def clock(monkeypatch):
    now = {"wall": 100.0, "cpu": 7.0}
    monkeypatch.setattr(time, "monotonic", lambda: now["wall"])
    monkeypatch.setattr(time, "process_time", lambda: now["cpu"])

    def passes(wall, cpu):
        now["wall"] += wall
        now["cpu"] += cpu

    return passes


def test_every_second_belongs_to_the_stage_that_it_passed_in(clock):
    meter = CostMeter(["networks", "judge"])
    clock(3, 1)  # before the first
    meter.stage("networks")
    clock(10, 18)
    meter.stage("networks")  # another part of it
    meter.stage("connect")  # was not planned: a part of the present one
    clock(1, 0)
    meter.stage("judge")
    clock(2, 2)
    meter.stage("networks")  # again
    clock(4, 5)
    found = meter.so_far()
    assert [(one.stage, one.wall_s, one.cpu_s) for one in found.stages] == [("networks", 15, 23), ("judge", 2, 2)]
    assert (found.wall_s, found.cpu_s) == (17, 25)
    assert found.peak_mb > 10


def test_the_present_stage_is_in_what_was_taken_so_far_and_goes_on(clock):
    meter = CostMeter(["networks"])
    assert meter.so_far().stages == ()
    meter.stage("networks")
    clock(1, 1)
    assert meter.so_far().wall_s == 1
    clock(2, 1)
    assert (meter.so_far().wall_s, meter.so_far().cpu_s) == (3, 2)


def test_what_was_found_is_in_the_cost_beside_the_stages():
    meter = CostMeter(["networks"])
    meter.found("start of fold 1")
    meter.found("fold 1 of 2")
    assert meter.so_far().found == ("fold 1 of 2", "start of fold 1")
