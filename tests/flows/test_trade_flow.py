"""Sessions through the real flow, on the champion of a golden home: paper, signals, and what is refused."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.settings import get_current_settings

from flows.evaluate import evaluate
from flows.monitor import monitor
from flows.trade import trade
from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.schema import ArtifactError, ConfigError, StoreBusyError, StoreError, VersionRef, Window, utc_text
from storage.settings import Settings
from tasks.champion.health import MonitorConfig
from tasks.champion.version_selector import VersionSelector
from tasks.journal.journal_reader import JournalReader
from tasks.live.session_start import one_session
from tasks.market.synthetic import generate
from tasks.runs import live_page
from tasks.runs.page import page_key
from tests.golden.make_golden import EXCHANGE, MARKET, restore
from tests.storage.stored import commit_window

pytestmark = pytest.mark.long
BARS = 60


@pytest.fixture
def version(home, prefect_api) -> VersionRef:
    """The champion of a home of the test's own."""
    return restore(home).champion(EXCHANGE.source, MARKET.slug).ref


def hold(ref, **options):
    given = {"market": MARKET, "exchange": EXCHANGE, "version": str(ref), "steps": BARS, "bar_every_s": 0.0}
    return trade(**(given | options))


@pytest.mark.promise(16)
def test_paper_session_equals_the_backtest_and_leaves_its_numbers(version, home, tmp_path, capsys):
    home.mkdir(exist_ok=True)
    (home / "paper.json").write_text("of before")
    (tmp_path / "read").hardlink_to(home / "paper.json")
    result = hold(version)
    assert (tmp_path / "read").read_text() == "of before"  # it was replaced whole: who read it saw all of one
    numbers = json.loads((home / "paper.json").read_text())
    assert numbers == json.loads(json.dumps(result.numbers))
    assert {name: numbers[name] for name in ("bars", "missing", "repeated", "duplicates", "unexplained")} == {
        "bars": BARS, "missing": 0, "repeated": 0, "duplicates": 0, "unexplained": 0
    }  # fmt: skip
    assert numbers["equal_decisions"] == numbers["decisions"] == BARS
    assert numbers["equal_fills"] == numbers["fills"] >= 1
    assert numbers["feature_diff"] <= 1e-9
    assert numbers["probability_diff"] <= 1e-5
    assert set(numbers["latency"]) == {"queue_us", "step_us", "journal_us"}
    assert numbers["rss_mb"] > 0
    assert f"session {result.name}: {BARS} bars stepped" in capsys.readouterr().out


@pytest.mark.promise(16)
def test_session_with_orders_is_explained_to_the_end(version, home, capsys):
    result = hold(version, mode="sandbox", bar_every_s=0.05)
    numbers = result.numbers
    assert (numbers["bars"], numbers["missing"], numbers["unexplained"], numbers["halted"]) == (BARS, 0, 0, [])
    assert numbers["fills"] >= 1
    assert sum(numbers["difference_bp"].values()) == pytest.approx(
        1e4 * (numbers["equity"] - numbers["markets"][0]["backtest_equity"]) / numbers["capital"], abs=1e-6
    )
    evaluate(session=result.name)
    assert f"{MARKET.slug}, by orders" in capsys.readouterr().out


def test_session_of_an_earlier_name_goes_on_with_its_ledger(version, home):
    first = hold(version, session="mine", steps=20)
    second = hold(version, session="mine", steps=BARS)
    whole = hold(version, session="other")
    assert (first.numbers["bars"], second.numbers["bars"]) == (20, BARS)
    for name in ("fills", "equity", "unexplained", "causes"):
        assert second.numbers[name] == whole.numbers[name], name


def test_session_that_goes_on_says_after_which_bar_and_names_its_page_and_what_to_do_next(version, home, capsys):
    hold(version, session="mine", mode="signal", steps=5)
    first = capsys.readouterr().err
    hold(version, session="mine", mode="signal", steps=8)
    second = capsys.readouterr().err
    assert "goes on after bar" not in first
    with JournalReader.of(home / "sessions" / "mine.sqlite") as reader:
        last_ms = reader.decisions(MARKET.slug)[4].start_ms
    assert f"{MARKET}: goes on after bar {utc_text(last_ms)}, 5 stepped so far" in second
    assert (
        f"  page         in the UI (make ui), under Artifacts: {page_key('session', EXCHANGE.source, MARKET)}" in second
    )
    assert second.splitlines()[-1].endswith("-m flows.evaluate --session mine")


def test_signals_are_lines_of_json_and_nothing_is_filled(version, home, capsys):
    hold(version, mode="signal", steps=20)
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert len(lines) == 20
    for line in lines:
        assert list(line) == [
            "time", "market", "version", "direction", "confidence", "probabilities", "expected_return",
            "foreseen_volatility", "foreseen_volatility_24h", "share", "daily_limit", "target", "reason",
        ]  # fmt: skip
        assert line["version"] == version.version
        assert line["direction"] == {-1: "short", 0: "flat", 1: "long"}[line["target"]]
        assert line["confidence"] == max(line["probabilities"].values())
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert 0 < line["foreseen_volatility"] < 1
        day = line["foreseen_volatility"] * 6**0.5  # six bars of four hours
        assert line["foreseen_volatility_24h"] == pytest.approx(day, rel=1e-12)
        assert line["share"] == 1.0  # sizing is fixed
    assert lines[0]["time"].endswith("Z")
    assert "0 equal to the backtest's, 0 twice" in printed.err
    assert not (home / "paper.json").exists()


def test_champion_decides_and_another_version_only_if_it_is_named(version, home, monkeypatch):
    store = ArtifactStore(Settings.from_environment().models)
    selector = VersionSelector(store=store, source=EXCHANGE.source)
    day_ns = 86_400 * 10**9
    made_ns = int(datetime.fromisoformat(version.made).timestamp()) * 10**9
    monkeypatch.setattr("tasks.champion.version_selector.time.time_ns", lambda: made_ns + day_ns)
    chosen = selector.at_start(MARKET)
    assert chosen.model.ref == version
    assert selector.refresh(MARKET, chosen.model).model is chosen.model
    monkeypatch.setattr("tasks.champion.version_selector.time.time_ns", lambda: made_ns + 400 * day_ns)
    late = selector.refresh(MARKET, chosen.model)
    assert late.model is None
    assert "has expired" in late.why_none


def test_session_of_a_flat_champion_decides_and_fills_nothing(version, home):
    store = ArtifactStore(Settings.from_environment().models)
    entry = store.champion(EXCHANGE.source, MARKET.slug)
    store.promote(
        EXCHANGE.source,
        MARKET.slug,
        None,
        {"champion": {"days": 1}, "challenger": {"days": 1}},
        expected=entry.sequence,
        now=datetime.now(UTC),
    )
    result = hold("champion", steps=10)
    assert (result.numbers["bars"], result.numbers["fills"], result.numbers["unexplained"]) == (10, 0, 0)
    with JournalReader.of(result.journal) as reader:
        assert {one.reason for one in reader.decisions(MARKET.slug)} == {"the champion is flat"}


def test_damaged_champion_holds_no_position_and_says_why(version, home):
    (weights,) = home.glob(f"models/*/*/{version.version}/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    result = hold("champion", steps=5)
    assert result.numbers["fills"] == 0
    with JournalReader.of(result.journal) as reader:
        (reason,) = {one.reason for one in reader.decisions(MARKET.slug)}
    assert reason.startswith("the champion can't be used (")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"version": "bybit/linear-SYNTHUSDT-240/20260101T000000Z-00000000"}, ConfigError, "needs a version of both"),
        ({"version": f"{EXCHANGE.source}/{MARKET.slug}/20260101T000000Z-00000000"}, ArtifactError, "20260101T000000Z"),
        ({"version": "the best one"}, ConfigError, "version"),
        ({"session": "../out"}, ConfigError, "a session's name must be"),
    ],
)
def test_what_can_t_be_traded_is_said(version, options, error, said):
    with pytest.raises(error, match=said):
        hold(version, **options)


def test_second_session_is_refused_and_names_the_first(version, home):
    with ExitStack() as stack:
        home.mkdir(exist_ok=True)
        one_session(home, EXCHANGE.source, (MARKET,), stack)
        with pytest.raises(StoreBusyError, match="a session of"):
            hold(version)


def test_page_of_a_session_stays_one_artifact_and_says_in_the_end_what_it_came_to(version, home, monkeypatch):
    key = page_key("session", EXCHANGE.source, MARKET)

    def shown() -> list[Artifact]:
        with get_client(sync_client=True) as client:
            return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))

    before = {one.id for one in shown()}  # of other sessions
    seen: list[str] = []
    put = live_page._put
    monkeypatch.setattr(live_page, "_BEAT_S", 0.05)
    monkeypatch.setattr(live_page, "EVERY_S", 0.1)
    monkeypatch.setattr(
        live_page, "_put", lambda client, page, *rest: seen.append(page.markdown) or put(client, page, *rest)
    )
    result = hold(version, bar_every_s=0.02)
    (page,) = [one for one in shown() if one.id not in before]
    assert len(seen) >= 2
    assert ": RUNNING\n" in seen[0]
    assert seen[-1] == page.data
    assert page.data.startswith(f"# {MARKET}, paper: ENDED\n")
    assert "> **its bars are done**" in page.data
    assert result.text() in page.data
    assert f"| version | {version.version} |" in page.data


@pytest.mark.promise(16)
def test_session_is_reviewed_from_its_journal_alone(version, home, capsys):
    held = hold(version, session="reviewed")
    found = evaluate(session="reviewed")
    assert (found.unexplained, list(found.accounts)) == (0, [MARKET.slug])
    parts = found.accounts[MARKET.slug].comparison.parts
    assert parts == pytest.approx(held.numbers["difference_bp"])
    told = capsys.readouterr().out
    rows = {line.split("  ")[1].strip(): line.split()[-1] for line in told.splitlines() if line.startswith("  ")}
    assert float(rows["- rounding"]) == pytest.approx(parts["rounding"], abs=0.051)
    assert f"{BARS} of {BARS}" in told
    with sqlite3.connect(home / "sessions" / "reviewed.sqlite") as db:
        db.execute("UPDATE opens SET cash = cash + 1000.0 WHERE start_ms = (SELECT max(start_ms) FROM opens)")
    db.close()
    planted = evaluate(session="reviewed")
    assert planted.unexplained >= 1
    assert planted.accounts[MARKET.slug].comparison.parts["unexplained"] == pytest.approx(100.0)  # of 100,000 USDT


def test_monitor_says_what_the_newest_session_came_to_and_raises_what_nobody_can_explain(version, home, capsys):
    store, candles = CandleStore(Settings.from_environment().database), generate(EXCHANGE.synthetic)
    span = Window(first_ms=int(candles.start_ms[0]), last_ms=int(candles.start_ms[-1]))
    commit_window(store, EXCHANGE.source, MARKET, span, candles, (), span.last_ms + 2 * MARKET.interval_ms)
    limits = MonitorConfig(drift_bars=0, skill_labels=0)
    (before,) = monitor(limits=limits)
    assert (before.paper, "  paper  " in capsys.readouterr().out) == ("", False)
    hold(version, session="watched")
    (found,) = monitor(limits=limits)
    assert found.paper.startswith(f"watched: version {version.version}, bars {BARS}, fills ")
    assert f"equal decisions {BARS} of {BARS}, unexplained 0" in capsys.readouterr().out
    assert found.complaints == ()

    with sqlite3.connect(home / "sessions" / "watched.sqlite") as db:
        db.execute("UPDATE facts SET value = replace(value, '\"unexplained\": 0', '\"unexplained\": 2')")
    db.close()
    (planted,) = monitor(limits=limits)
    assert set(planted.breaches) == {"paper"}


@pytest.mark.parametrize(
    ("named", "error", "said"),
    [
        ({}, ConfigError, "either a version or a session must be named"),
        ({"version": "a", "session": "b"}, ConfigError, "either a version or a session must be named"),
        ({"session": "never-held"}, StoreError, "there is no session 'never-held'"),
        ({"session": "../../etc/passwd"}, ConfigError, "a session's name must be"),
    ],
)
def test_what_can_t_be_reviewed_is_said(home, prefect_api, named, error, said):
    with pytest.raises(error, match=said):
        evaluate(**named)


@pytest.mark.parametrize("stop", [signal.SIGINT, "nobody reads"])  # who finds that sends itself SIGTERM
def test_stopped_session_closes_its_journal_and_prints_its_summary(version, home, stop):
    law = EXCHANGE.synthetic
    session = subprocess.Popen(  # noqa: S603
        [
            sys.executable, "-m", "flows.trade", "--mode", "signal", "--interval", MARKET.interval, "--version",
            str(version), "--steps", "100000", "--bar-every-s", "0.02", "--session", "stopped",
            "--synthetic.bars", str(law.bars), "--synthetic.interval-ms", str(law.interval_ms),
            "--synthetic.volatility", str(law.volatility), "--synthetic.k", str(law.k), "--synthetic.psi", str(law.psi),
        ],
        env=os.environ | {"PREFECT_API_URL": get_current_settings().api.url},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(5):
        assert json.loads(session.stdout.readline())["market"] == str(MARKET)
    if stop == "nobody reads":
        session.stdout.close()
        told = session.stderr.read()
        session.wait()
        session.stderr.close()
    else:
        session.send_signal(stop)
        _, told = session.communicate()
    assert session.returncode == 0, told
    assert "stopping after the present bar" in told
    assert "session stopped: " in told
    assert "Traceback" not in told
    with JournalReader.of(home / "sessions" / "stopped.sqlite") as reader:
        assert reader.facts()["summary"]["unexplained"] == 0
        assert reader.decided(MARKET.slug) >= 5
