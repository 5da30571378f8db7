"""The command line: whatever stops a flow is one line with the way out."""

import errno
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from prefect.context import use_profile
from prefect.settings import PREFECT_API_URL, Profile, get_current_settings

from flows.entry.command_line import _fitted, plain_errors, with_category

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:9/api"  # the port of a service that nobody runs
WAY_OUT = "start it, or change or remove that address, which ends in /api, in"


def test_server_that_is_not_there_is_named_with_the_variable_that_gave_its_address(home, tmp_path):
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PREFECT_")}
    environment = kept | {"DSC_HOME": str(home), "PREFECT_HOME": str(tmp_path), "PREFECT_CLIENT_MAX_RETRIES": "0"}
    environment["PREFECT_API_URL"] = NOWHERE
    command = [sys.executable, "-m", "flows.monitor"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Prefect can't be reached at {NOWHERE} (")
    assert line.endswith(f"{WAY_OUT} the variable PREFECT_API_URL")
    assert done.returncode == 1


def test_server_that_is_not_there_is_named_with_the_profile_that_gave_its_address(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    chosen = Profile(name="x", settings={PREFECT_API_URL: NOWHERE}, source=tmp_path / "profiles.toml")
    with use_profile(chosen, include_current_context=False), pytest.raises(SystemExit) as left, plain_errors():
        raise httpx.ConnectError("refused")
    assert left.value.code == (
        f"Prefect can't be reached at {NOWHERE} (refused); {WAY_OUT} profile 'x' of {tmp_path}/profiles.toml"
    )


def test_user_without_a_home_directory_gets_that_of_the_data_and_hears_it_once(home, monkeypatch, capsys):
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody-of-that-name").expanduser())
    monkeypatch.setenv("HOME", "")
    for _ in range(2):
        runpy.run_path(str(ROOT / "flows" / "__init__.py"))
    assert os.environ["HOME"] == str(home)
    assert home.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err == f"this user has no home directory: {home} stands in for it\n"


GOES_ON = """
import threading, time
from prefect import flow
from prefect.logging import get_run_logger
from flows.entry.command_line import run_by_hand

@flow
def quick():
    log = get_run_logger()

    def goes_on():
        while True:
            log.warning("still here")
            time.sleep(0.005)

    threading.Thread(target=goes_on, daemon=True).start()

run_by_hand(quick, ("quick",))
"""


def test_thread_that_logs_on_after_the_run_prints_no_traceback(home, prefect_api):
    command = [sys.executable, "-c", GOES_ON]
    environment = os.environ | {"DSC_HOME": str(home), "PREFECT_API_URL": get_current_settings().api.url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode, done.stderr) == (0, "")
    assert "still here" in (home / "logs" / "run.log").read_text()


@pytest.mark.promise(19)
def test_run_that_is_refused_says_one_line(home, prefect_api):
    command = [sys.executable, "-m", "flows.rollback", "--symbol", "BTCUSDT", "--reason", "none"]
    environment = os.environ | {"DSC_HOME": str(home), "PREFECT_API_URL": get_current_settings().api.url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert re.fullmatch(r"ArtifactError: nothing to roll back for .*: the champion is flat, .*\n", done.stderr)
    assert (done.returncode, done.stdout) == (1, "")


def test_home_that_cannot_be_written_is_refused_before_anything_starts(tmp_path, monkeypatch, ended):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DSC_HOME", str(tmp_path / "file"))
    status, said = ended("monitor")
    assert status == 1
    assert re.match(r"StoreError: DSC_HOME must be a writable folder, .* \(File exists\); set", said.err)


def test_full_disk_is_refused_before_anything_starts(home, monkeypatch, ended):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1_500_000))
    status, said = ended("monitor")
    assert status == 1
    assert re.match(r"StoreError: DSC_HOME must have 64 MB free, .*home has 1\.5; free space or", said.err)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.ENOLCK, errno.EROFS, errno.EACCES])
def test_disk_that_refuses_whatever_was_to_be_written_is_one_line(code):
    with pytest.raises(SystemExit) as left, plain_errors():
        raise OSError(code, os.strerror(code), "/srv/dsc/paper.json")
    assert left.value.code == (
        f"StoreError: can't use /srv/dsc/paper.json ({os.strerror(code)}); free space or set DSC_HOME"
    )


class Typed(io.StringIO):
    """A terminal at which somebody types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "category"), [("\n", "linear"), ("spot\n", "spot"), ("futures\n Linear \n", "linear"), ("", "linear")]
)
def test_category_of_a_candle_files_market_is_asked_for_where_somebody_is_there(monkeypatch, capsys, typed, category):
    monkeypatch.setattr(sys, "stdin", Typed(typed))
    monkeypatch.setattr(sys, "stderr", asked := Typed())
    assert with_category(["--candles", "a.csv", "--interval", "5"])[4:] == ["--category", category]
    assert asked.getvalue().count("is it linear or spot? [linear] ") == max(typed.count("\n"), 1)


def test_category_of_a_candle_files_market_is_assumed_in_a_line_where_nobody_is(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("spot\n"))
    assert with_category(["--candles=a.csv"]) == ["--candles=a.csv"]
    said = "a candle file does not say what its market is: taken for linear; --category spot if it is spot\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    "line", [["--candles", "a.csv", "--category", "linear"], ["--category=spot", "--candles=a"], []]
)
def test_category_that_was_chosen_is_not_spoken_of(monkeypatch, capsys, line):
    monkeypatch.setattr(sys, "stdin", Typed("spot\n"))
    assert with_category(line) == line
    assert capsys.readouterr() == ("", "")


FLOWS = ("evaluate", "ingest", "monitor", "pipeline", "prune", "retrain", "rollback", "search", "trade")


@pytest.mark.parametrize("flow", FLOWS)
def test_help_is_one_screen_with_two_examples_and_the_rest_is_a_second_one(flow, helped):
    screen, everything = helped(flow, "--help"), helped(flow, "--help-all")
    assert len(screen) <= 40
    assert max(map(len, screen)) <= 80
    assert sum(line.startswith(f"  python -m flows.{flow}") for line in screen) == 2
    assert not any("Display application version" in line for line in screen)
    (title,) = [line for line in screen if "Options" in line and line.startswith("╭")]
    assert ("--help-all" in title) == (len(everything) > len(screen))


def test_second_screen_has_every_option_in_less_than_two_lines(helped):
    everything = helped("search", "--help-all")
    assert max(map(len, everything)) <= 80
    options = [line for line in everything if line.startswith("--")]
    assert len(options) > 100
    assert len(everything) < 1.8 * len(options)
    assert "--labels.horizon=12             Bars from fill to exit" in everything
    assert "--live                          Whether the synthetic market continues in real" in everything
    assert any(line.startswith("--baselines.no-twin ") for line in everything)  # on unless said otherwise
    assert any(line.startswith("--exchange=sandbox|bybit|testnet|demo  ") for line in everything)
    assert any(line.startswith("--candles STR ") for line in everything)


def test_help_shows_an_example_as_it_is_typed(helped):
    example = "  python -m flows.pipeline --exchange bybit --symbols BTCUSDT,SOLUSDT --pool yes"
    assert example in helped("pipeline", "--help")


@pytest.fixture
def ended(monkeypatch, capsys):
    """Run a flow's module as a program does, and return its status and what it printed."""

    def run(flow: str, *options: str):
        monkeypatch.setattr(sys, "argv", [f"flows.{flow}", *options])
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(os, "_exit", sys.exit)
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(ROOT / "flows" / f"{flow}.py"), run_name="__main__")
        return left.value.code, capsys.readouterr()

    return run


@pytest.fixture
def helped(ended):
    """Return the lines of a flow's help."""

    def printed(flow: str, option: str) -> list[str]:
        status, said = ended(flow, option)
        assert status == 0
        return said.out.splitlines()

    return printed


def test_parameter_that_breaks_a_rule_is_said_with_what_it_may_be(home, ended):
    status, said = ended("ingest", "--interval", "7")
    assert status == 2
    words = " ".join(said.err.replace("│", " ").split())
    assert 'Invalid value "7" for --interval. Choose from: "1", "3", "5", "15", "30",' in words
    assert not home.exists()


@pytest.mark.parametrize(
    ("option", "given", "rule"),
    [
        ("--labels.horizon", "0", "Input should be greater than or equal to 1"),
        ("--start", "yesterday", 'unable to convert "yesterday" into a time such as 2025-01-31 or 2025-01-31T12:00.'),
    ],
)
def test_value_that_is_refused_is_said_with_the_rule_alone(home, ended, option, given, rule):
    status, said = ended("pipeline", option, given)
    words = " ".join(said.err.replace("│", " ").split())
    assert status == 2
    assert words.rstrip("─╰╯ ").endswith(rule)
    assert "pydantic" not in words


def test_symbol_in_a_list_is_refused_before_a_run_begins(home, ended):
    status, said = ended("pipeline", "--symbols", "ETHUSDT,btcusdt")
    assert status == 2
    words = " ".join(said.err.replace("│", " ").split())
    assert "symbol must be upper-case letters, digits and dashes such as BTCUSDT, was 'btcusdt'" in words
    assert not (home / "prefect").exists()  # no server was started


def test_prefects_lines_go_to_the_log_and_nothing_else_to_the_terminal(home, prefect_api):
    command = [sys.executable, "-m", "flows.ingest", "--synthetic.bars", "300"]
    environment = os.environ | {"DSC_HOME": str(home), "PREFECT_API_URL": get_current_settings().api.url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stderr == ""
    stage, stored, log, total = done.stdout.splitlines()
    assert re.fullmatch(r"1/1 ingest \.\.\. \d+ s", stage)
    assert stored.startswith("SYNTHUSDT linear 5m: 300 bars, 2025-01-01")
    assert log == f"  log      {home / 'logs' / 'run.log'}"
    assert re.fullmatch(r"  total    \d+ s", total)
    written = (home / "logs" / "run.log").read_text()
    assert re.search(r"INFO +\| Task run '.*' - Finished in state Completed\(\)", written)


def test_monitor_where_nothing_is_stored_fails_names_the_home_and_makes_no_store(home, prefect_api):
    environment = os.environ | {"DSC_HOME": str(home), "PREFECT_API_URL": get_current_settings().api.url}
    command = [sys.executable, "-m", "flows.monitor"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 1
    assert done.stdout == f"no market is stored in {home}; ingest one, or set DSC_HOME\n"
    assert not (home / "market.duckdb").exists()


def test_summary_on_a_terminal_breaks_between_words_and_leaves_an_address_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    address = "file:///" + "folder/" * 6
    said = f"KEPT - no position.\n\n  failed: closed trades 37, asked >= 100, and more\n  report  {address}"
    assert _fitted(said).splitlines() == [
        "", "KEPT - no position.", "", "  failed: closed trades 37, asked >=", " " * 12 + "100, and more",
        f"  report  {address}",
    ]  # fmt: skip
