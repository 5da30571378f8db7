"""What a run by hand shows: numbered stages, on a terminal live, elsewhere a line each; nothing where nobody looks."""

import io

import pytest

from tasks.runs import display as run_display
from tasks.runs.display import (
    RunDisplay,
    advance,
    doing,
    duration,
    end_stage,
    found,
    parts_of,
    plan,
    say,
    showing,
    stage,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that a test moves."""

    def __init__(self, monkeypatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(run_display.time, "monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_pipe_gets_a_line_a_stage_with_its_time(clock):
    out = io.StringIO()
    with showing(out):
        plan(("ingest", "networks", "judge"))
        plan(("networks",))  # of a flow inside: it has no say
        stage("ingest")
        clock.now_s += 4
        for _ in parts_of("networks", 3):
            advance(0.5, "loss 0.9")
            clock.now_s += 30
        stage("judge")
    assert out.getvalue() == "1/3 ingest ... 4 s\n2/3 networks ... 1 min 30 s\n3/3 judge ... 0 s\n"


def test_pipe_gets_a_line_for_each_step_of_a_market_and_one_for_all_that_was_made_before(clock):
    out = io.StringIO()
    with showing(out):
        plan(("ingest", "markets"))
        stage("ingest")
        stage("markets", 0, 2)
        for ended, market in enumerate(("BTCUSDT", "ETHUSDT")):
            doing(market)
            stage("markets", ended, 2)  # that one has ended is heard when the next has begun
            for _ in parts_of("networks", 3):
                found("a fold")
            stage("judge")
        clock.now_s += 9
    assert out.getvalue().splitlines() == [
        "1/2 ingest ... 0 s",
        "2/2 markets ... ",
        *(f"  {market}: {name}" for market in ("BTCUSDT", "ETHUSDT") for name in ("networks", "judge")),
        "2/2 markets ... 9 s, 6 parts made before from the same bars",
    ]


def test_pipe_says_how_far_a_step_is_that_has_said_nothing_for_a_minute(clock):
    out = io.StringIO()
    with showing(out):
        plan(("session",))
        stage("session")
        for bars in (10, 20, 30, 40):
            clock.now_s += 40
            advance(bars / 100, f"{bars} of 100 bars")
    assert out.getvalue().splitlines() == [
        "1/1 session ... ",
        "  5 min 20 s left, 20 of 100 bars",
        "  4 min 00 s left, 40 of 100 bars",
        "1/1 session ... 2 min 40 s",
    ]


def test_what_a_run_prints_itself_stands_below_its_last_stage(clock, capsys):
    with showing():
        plan(("train", "session"))
        stage("train")
        stage("session")
        end_stage()
        print("session held: 20 bars stepped")
    assert capsys.readouterr().out == "1/2 train ... 0 s\n2/2 session ... 0 s\nsession held: 20 bars stepped\n"


def test_pipe_says_where_a_run_stopped(clock):
    out = io.StringIO()
    display = RunDisplay(out)
    display.plan(("ingest", "judge"))
    display.stage("ingest", 0, 1, "")
    display.close(done=False)
    assert out.getvalue() == "1/2 ingest ... stopped\n"


def test_line_that_stays_does_not_break_a_stages_line(clock):
    out = io.StringIO()
    with showing(out):
        plan(("markets",))
        stage("markets", 0, 2)
        say("BTCUSDT [linear] 5m: kept")
        stage("markets", 1, 2)
        say("ETHUSDT linear 5m: kept")
    assert out.getvalue() == (
        "1/1 markets ... \nBTCUSDT [linear] 5m: kept\nETHUSDT linear 5m: kept\n1/1 markets ... 0 s\n"
    )


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def shown(display: RunDisplay) -> list[str]:
    console = run_display._Console(file=io.StringIO(), width=80)
    console.print(display._stages())
    return console.file.getvalue().splitlines()


def test_terminal_shows_progress_and_time_left_of_the_present_stage(clock):
    display = RunDisplay(Terminal())
    display.plan(("ingest", "networks", "judge"))
    display.stage("ingest", 0, 1, "")
    clock.now_s += 4
    display.stage("networks", 1, 4, "")  # the second of four parts
    clock.now_s += 30
    display.advance(0.2, "loss 0.9")
    first, second, third = shown(display)
    assert first.split() == ["1/3", "ingest", "━" * 11, "4", "s"]
    # 30 s for 1.2 parts of 4 leave 70 s for the other 2.8
    assert second.split("  ")[-2:] == ["1 min 10 s left", "2 of 4, loss 0.9"]
    assert third.strip() == "3/3 judge"
    display.close(done=True)


def test_narrow_terminal_shows_all_that_the_longest_stage_does(clock):
    display = RunDisplay(Terminal())
    display.plan(("ingest", "leak checks", "judge"))
    display.stage("judge", 3, 4, "second seed, 4 of 4")
    clock.now_s += 91
    display.advance(0.2, "loss 1.0312")
    assert shown(display)[2].endswith("second seed, 4 of 4, loss 1.0312")
    display.close(done=True)


def test_step_that_was_not_planned_is_what_the_present_stage_does(clock):
    display = RunDisplay(Terminal())
    display.plan(("ingest", "markets"))
    display.stage("markets", 2, 20, "")
    display.stage("networks", 0, 4, "")
    display.advance(0.9, "loss 0.9")
    assert shown(display)[1].endswith("3 of 20, networks 1 of 4, loss 0.9")
    display.close(done=False)


def test_terminal_keeps_its_cursor_for_a_run_that_is_killed():
    out = Terminal()
    with showing(out):
        plan(("ingest",))
        stage("ingest")
    assert "\x1b[?25l" not in out.getvalue()  # the sequence that hides it


def test_nothing_is_shown_where_nobody_looks(capsys):
    plan(("ingest",))
    stage("ingest")
    advance(0.5)
    say("a line")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (62, "1 min 02 s"), (3_599.7, "1 h 00 min"), (7_500, "2 h 05 min")],
)
def test_duration_is_said_as_people_do(seconds, text):
    assert duration(seconds) == text
