"""The page of a session: what a journal holds, in words and numbers that were worked out by hand."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.schema import FEATURES, Candles, Market, Source, VersionRef
from tasks.execution.limits import TradingLimits
from tasks.execution.paper import Fill, Ledger, Opened, Quote
from tasks.journal.journal import Journal
from tasks.journal.journal_reader import JournalReader
from tasks.journal.journal_rows import BarOpen, Decision
from tasks.reporting.canvas import png
from tasks.reporting.session_figure import Drawn, expected_band, session_figure
from tasks.reporting.session_page import Shown, drift_text, session_page, skill_text
from tasks.reporting.version_facts import VersionFacts
from tests.champion.example_manifest import MANIFEST

MARKET = Market(interval="60")
HOUR_MS = MARKET.interval_ms
START_MS = 1_767_312_000_000 - 2 * HOUR_MS  # 2026-01-01T22:00Z: the second bar is the last of its day
VERSION = "20260101T000000Z-0123abcd"
REF = VersionRef(source=Source("bybit"), name=MARKET.slug, version=VERSION)
KNOWN = np.append(np.zeros(len(FEATURES) + 1), (0.2, 0.3, 0.5))
SHOWN = Shown(now_ms=START_MS + 4 * HOUR_MS + 90_000, journal="/home/sessions/one.sqlite", report="http://h/report")
PAGE = Callable[..., str]


def facts(**changed: Any) -> VersionFacts:
    given: dict[str, Any] = {
        "ref": REF, "manifest": replace(MANIFEST, market=MARKET), "daily": np.full(30, 0.01), "max_drawdown": 0.25,
        "prior": np.array([0.25, 0.5, 0.25]), "trained_on": None,
    }  # fmt: skip
    return VersionFacts(**(given | changed))


def decision(bar: int, position: int = 0, wanted: int = 0, **changed: Any) -> Decision:
    given: dict[str, Any] = {
        "start_ms": START_MS + bar * HOUR_MS, "version": VERSION, "values": KNOWN, "position": position,
        "bars_held": 1, "target": wanted, "wanted": wanted, "cause": "", "lacks": "", "mu": 0.0012, "cost": 0.0022,
        "late_ms": 3.0, "feed_ms": math.nan, "queue_us": 200.0, "step_us": 40.0,
    }  # fmt: skip
    return Decision(**(given | changed))


def opened(bar: int, ledger: Ledger, fill: Fill | None = None, first: float = 100.0) -> BarOpen:
    return BarOpen(START_MS + bar * HOUR_MS, ledger.side, "", Quote(first), 0.0, 1.0, Opened(ledger, fill, 0.0))


class Diary:
    """A journal that a test writes bar by bar.

    Attributes:
        path: Where it is.
        journal: Open.
    """

    def __init__(self, path: Path, mode: str = "paper") -> None:
        self.path, self.journal = path, Journal(path)
        account = MARKET.slug
        self.journal.agree({"mode": mode, "source": "bybit", "capital": {account: 1_000.0, f"{account}@other": 500.0}})
        self.journal.takeover(account, START_MS, VERSION, np.zeros(8))

    def bar(self, bar: int, close: float, one: Decision, name: str = MARKET.slug) -> None:
        row = (START_MS + bar * HOUR_MS, close, close, close, close, 1.0, 1.0)
        self.journal.decided(MARKET.slug, row, "stream", [(name, one)])

    def day(self) -> None:
        """Flat, then ten coins bought at 100.05 for a fee of 2, on their second bar at 104, 103 and 101."""
        self.journal.opened([(MARKET.slug, opened(0, Ledger(1_000.0)))])
        self.bar(0, 100.0, decision(0, 0, 1))
        held = Ledger(1_000.0 - 10 * 100.05 - 2.0, 10.0, 1, 1)
        self.journal.opened([(MARKET.slug, opened(1, held, Fill(10.0, 100.05, 2.0, 0.5)))])
        self.bar(1, 104.0, decision(1, 1, 1))
        for bar, close in ((2, 103.0), (3, 101.0)):
            self.journal.opened([(MARKET.slug, opened(bar, held._replace(bars_held=bar), first=close))])
            self.bar(bar, close, decision(bar, 1, 1))

    def page(self, known: VersionFacts | None = None, shown: Shown = SHOWN) -> str:
        with JournalReader.of(self.path) as reader:
            return session_page(reader, MARKET, known, shown)


@pytest.fixture
def diary(tmp_path: Path) -> Iterator[Diary]:
    made = Diary(tmp_path / "one.sqlite")
    yield made
    made.journal.close()


def cell(page: str, name: str) -> str:
    """Return the value beside a name, as a reader sees it."""
    found = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", page, re.MULTILINE)
    assert len(found) == 1, f"{name}: {found}"
    return found[0].replace("\\", "").replace("\N{MINUS SIGN}", "-")


def test_page_says_what_volatility_is_forecast_and_what_share_of_a_position_it_leaves(diary: Diary) -> None:
    diary.journal.opened([(MARKET.slug, opened(0, Ledger(1_000.0)))])
    diary.bar(0, 100.0, decision(0, values=np.append(np.full(len(FEATURES) + 1, 1e-3), (0.2, 0.3, 0.5, 0.01, 0.42))))
    shown = replace(SHOWN, limits=TradingLimits(daily_loss=0.05, daily_vols=2.0))
    page = diary.page(facts(), shown).replace("\N{NO-BREAK SPACE}", " ")
    assert (
        cell(page, "a day may lose, by orders") == "3.9 % with such a position, and is halted"
    )  # 2 * 95 % * 42 % * 4.9 %
    assert cell(page, "volatility of a bar") == "10.00 bp now, 100.00 bp forecast"
    assert cell(page, "volatility of 24 hours") == "4.9 % forecast; 42.0 % of a position is taken"  # 1 % * sqrt(24)


def test_page_says_as_of_when_it_is_and_how_the_account_stands(diary: Diary) -> None:
    diary.day()
    page = diary.page(facts())
    assert page.startswith("# SYNTHUSDT linear 60m, paper: RUNNING\n")
    assert "**As of 2026-01-02 02:01:30 UTC. Reload this page" in page
    assert cell(page, "last bar") == "2026-01-02T01:00Z, closed 90 s ago"
    assert cell(page, "next decision") == "2026-01-02T03:00Z, in 58 min"
    assert cell(page, "bars, fills") == "4, 1"
    assert cell(page, "position") == "long 10 coins, held for 3 bars"
    assert cell(page, "entry") == "100.05 USDT at 2026-01-01T23:00Z"
    assert cell(page, "mark") == "101 USDT, +0.95 % since the entry"
    # 1,000 - 1,000.5 - 2 + 10 coins: 1,037.5 at the end of the first day, 1,007.5 now
    assert cell(page, "equity") == "1,007.50 USDT"
    assert cell(page, "today (UTC), after costs".replace("(", r"\(").replace(")", r"\)")) == "-30.00 USDT, -2.89 %"
    assert cell(page, "since the start") == "+7.50 USDT, +0.75 %"
    assert cell(page, "drawdown") == "2.9 % now, 2.9 % at most"
    assert cell(page, "drawdown of its backtest") == "25.0 % at most; its promotion allowed 25.0 %"


def test_fills_and_decisions_stand_with_their_costs_and_reasons(diary: Diary) -> None:
    diary.day()
    diary.bar(4, 90.0, decision(4, 1, 1, target=-1, cause="deadline"))
    page = diary.page()
    assert "| 2026-01-01T23:00Z | Buy 10 | 100.05 | \\+5.00 bp | 2.00 |" in page
    assert "| 2026-01-01T22:00Z | flat → long | go long: mu \\+12.0 bp, round trip 22.0 bp |" in page
    assert "| long | go short: mu \\+12.0 bp, round trip 22.0 bp; not traded: deadline |" in page
    newest_first = re.findall(r"^\| (2026-01-0\S+Z) \| (?:long|flat)", page, re.MULTILINE)
    assert newest_first == sorted(newest_first, reverse=True)
    assert len(newest_first) == 5


def test_what_decides_stands_with_its_age_probabilities_and_latency(diary: Diary) -> None:
    diary.day()
    page = diary.page(facts())
    assert f"| version | {VERSION} |" in page
    assert cell(page, "made") == "1.1 days ago"
    assert cell(page, "probabilities") == "sell 20.0 %, hold 30.0 %, buy 50.0 %"
    assert cell(page, "latency, 99 of 100 within") == "queue 200.0 µs, step 40.0 µs, close to decision 3.0 ms"
    assert cell(page, "drift of its inputs") == f"not measured: dataset {MANIFEST.dataset} is not on this machine"
    assert cell(page, "log-loss, live") == "not measured: 0 of 100 labels have matured"
    assert "Report: [http://h/report](http://h/report)" in page
    assert "Journal: `/home/sessions/one.sqlite`" in page


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ([("halted", "is stepped no more: delisted")], ("HALTED", "is stepped no more: delisted")),
        ([("halted", "delisted"), ("resumed", "with it")], ("RUNNING", "")),
        ([("clock off", "1.2 s ahead; nothing new is held")], ("RUNNING", "1.2 s ahead; nothing new is held")),
        ([("clock off", "1.2 s"), ("clock on", "0.0 s")], ("RUNNING", "")),
        ([("champion unknown", "no answer")], ("RUNNING", "no answer")),
        ([("champion unknown", "no answer"), ("resumed", "with it")], ("RUNNING", "")),
        ([("halted", "a | b <i>")], ("HALTED", r"a \| b &lt;i&gt;")),
    ],
)
def test_state_is_what_the_notes_say_last(diary: Diary, notes: list[tuple[str, str]], said: tuple[str, str]) -> None:
    diary.day()
    for kind, text in notes:
        diary.journal.note(START_MS, MARKET.slug, kind, text)
    diary.journal.note(START_MS, "linear-OTHERUSDT-60", "halted", "another market")
    page = diary.page()
    assert page.splitlines()[0].endswith(f": {said[0]}")
    assert re.findall(r"^> \*\*(.*)\*\*$", page, re.MULTILINE) == ([said[1]] if said[1] else [])


def test_bar_that_does_not_come_is_said(diary: Diary) -> None:
    diary.day()
    page = diary.page(shown=replace(SHOWN, now_ms=SHOWN.now_ms + HOUR_MS + 30_000))
    assert "> **the next bar is 2 min overdue: the stream or the exchange is silent**" in page
    assert cell(page, "next decision") == "2026-01-02T03:00Z, in 0 s"


def test_session_that_has_ended_says_how_and_what_it_came_to(diary: Diary) -> None:
    diary.day()
    page = diary.page(shown=replace(SHOWN, ended="it was stopped", summary="session one: 4 bars stepped"))
    assert page.startswith("# SYNTHUSDT linear 60m, paper: ENDED\n")
    assert "> **it was stopped**" in page
    assert "```\nsession one: 4 bars stepped\n```" in page
    assert "next decision" not in page


def test_versions_beside_it_have_a_line_each(diary: Diary) -> None:
    diary.day()
    other = f"{MARKET.slug}@other"
    diary.journal.opened([(other, opened(3, Ledger(500.0 + 505.0, -5.0, -1, 1), Fill(-5.0, 101.0, 0.0, 0.0)))])
    diary.bar(4, 101.0, decision(4), name=other)
    assert "- other: +0.00\N{NO-BREAK SPACE}%, 1 fills, short" in diary.page()
    assert diary.page().count("\n- ") == 1


def test_page_before_the_first_bar_and_without_a_version_stands(diary: Diary) -> None:
    page = diary.page()
    assert cell(page, "last bar") == "none has closed since it began"
    assert "_None yet._" in page
    assert "data:image" not in page


def test_signals_have_a_position_and_no_money(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "signals.sqlite", mode="signal")
    diary.journal.opened([(MARKET.slug, opened(0, Ledger(1_000.0)))])
    diary.bar(0, 100.0, decision(0, 0, -1))
    diary.journal.opened([(MARKET.slug, opened(1, Ledger(1_000.0, 0.0, -1, 1)))])
    diary.bar(1, 99.0, decision(1, -1, -1))
    page = diary.page(facts())
    diary.journal.close()
    assert cell(page, "position") == "short, held for 1 bar"
    assert cell(page, "mark") == "99 USDT"
    assert "equity |" not in page
    assert "## Fills" not in page


def test_replay_has_no_age(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "replay.sqlite")
    diary.journal._db.execute("UPDATE facts SET value = '\"sandbox:0123abcd\"' WHERE name = 'source'")
    diary.day()
    page = diary.page()
    diary.journal.close()
    assert cell(page, "last bar") == "2026-01-02T01:00Z, closed by the clock of its replay"
    assert "overdue" not in page


def test_picture_is_a_png_of_a_few_kilobytes(diary: Diary) -> None:
    diary.day()
    (uri,) = re.findall(r"!\[[^]]*\]\(data:image/png;base64,([^)]*)\)", diary.page(facts()))
    content = base64.b64decode(uri)
    assert content[:4] == b"\x89PNG"
    assert len(content) < 100_000


@pytest.mark.parametrize("interval_ms", [300_000, 3_600_000, 14_400_000])
@pytest.mark.parametrize("bars", [1, 14, 30, 60])
def test_picture_of_any_length_is_drawn_without_a_warning(bars: int, interval_ms: int) -> None:
    start_ms, price = START_MS + interval_ms * np.arange(bars), 100.0 + np.arange(bars)
    columns = dict.fromkeys(("open", "high", "low", "close", "volume", "turnover"), price)
    drawn = Drawn(
        candles=Candles(start_ms=start_ms, **columns), interval_ms=interval_ms, trades=[(int(start_ms[0]), 100.0, 1)],
        start_ms=start_ms, equity=np.append(1.0, price), daily=np.full(30, 0.01),
    )  # fmt: skip
    assert png(session_figure(drawn, "label", 760))[:4] == b"\x89PNG"


def test_account_is_expected_to_grow_as_the_backtests_days_did() -> None:
    low, middle, high = expected_band(1_000.0, np.full(30, 0.01), np.array([0.0, 2.0]))
    np.testing.assert_allclose([low, middle, high], [[1_000.0, 1_020.1]] * 3, rtol=1e-12)
    daily = np.expm1([0.02, -0.02] * 20)  # mean 0, standard deviation 0.02 * sqrt(40 / 39)
    low, middle, high = expected_band(1_000.0, daily, np.array([4.0]))
    spread = 2.0 * 0.02 * math.sqrt(40 / 39) * 2.0
    np.testing.assert_allclose([low[0], middle[0], high[0]], 1_000.0 * np.exp([-spread, 0.0, spread]), rtol=1e-12)


def bars_of(count: int, values: Callable[[int], np.ndarray]) -> tuple[list[Decision], Candles]:
    decisions = [decision(bar, values=values(bar)) for bar in range(count)]
    price = np.where(np.arange(count) % 2, 100.0, 200.0)
    start_ms = START_MS + HOUR_MS * np.arange(count)
    columns = dict.fromkeys(("open", "high", "low", "close", "volume", "turnover"), price)
    return decisions, Candles(start_ms=start_ms, **columns)


def test_log_loss_is_that_of_the_labels_that_have_matured_beside_the_priors() -> None:
    recipe = replace(MANIFEST.recipe, labels=replace(MANIFEST.recipe.labels, horizon=1))
    known = facts(manifest=replace(MANIFEST, market=MARKET, recipe=recipe))
    decisions, candles = bars_of(202, lambda bar: np.append(np.full(len(FEATURES) + 1, 1e-3), (0.125, 0.375, 0.5)))
    # From the open after a bar to the next one, the price doubles behind one bar and halves behind the other.
    ours, prior = -(math.log(0.5) + math.log(0.125)) / 2, -math.log(0.25)
    expected = f"{ours:.4f} nat, the class shares of its training {prior:.4f}, over 200 labels"
    assert skill_text(known, decisions, candles) == expected


def test_labels_across_a_hole_do_not_count() -> None:
    recipe = replace(MANIFEST.recipe, labels=replace(MANIFEST.recipe.labels, horizon=1))
    known = facts(manifest=replace(MANIFEST, market=MARKET, recipe=recipe))
    decisions, candles = bars_of(252, lambda bar: np.append(np.full(len(FEATURES) + 1, 1e-3), (0.125, 0.375, 0.5)))
    del decisions[100]
    assert skill_text(known, decisions, candles).endswith("over 247 labels")


def test_inputs_that_have_moved_away_are_said_to_have_drifted() -> None:
    rng = np.random.default_rng(3)
    trained = rng.normal(size=(6_000, len(FEATURES)))
    known = facts(trained_on=trained)

    def ready(shift: float, count: int = 600) -> list[Decision]:
        rows = rng.normal(size=(count, len(FEATURES)))
        rows[:, 4] += shift
        return bars_of(count, lambda bar: np.concatenate([rows[bar], [1e-3], [0.2, 0.3, 0.5]]))[0]

    assert "the market has changed" not in drift_text(known, ready(0.0))
    moved = drift_text(known, ready(3.0))
    assert moved.startswith("**rsi has ")
    assert moved.endswith(": the market has changed**")
    assert drift_text(known, ready(0.0, 200)) == "not measured: no whole block of 250 bars yet"


def test_one_block_of_a_session_that_differs_is_shown_and_no_reason_yet() -> None:
    rng = np.random.default_rng(4)
    known = facts(trained_on=rng.normal(size=(6_000, len(FEATURES))))
    first = START_MS // HOUR_MS % 250  # where the blocks of a session begin
    rows = rng.normal(size=(750, len(FEATURES)))
    rows[500 - first : 750 - first, 4] += 3.0
    decisions, _ = bars_of(750 - first, lambda bar: np.concatenate([rows[bar], [1e-3], [0.2, 0.3, 0.5]]))
    said = drift_text(known, decisions)
    assert said.startswith("rsi has ")
    assert "the market has changed" not in said


def test_drift_is_measured_once_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    monkeypatch.setattr(
        "tasks.reporting.session_page.measure_drift", lambda trained, recent: measured.append(len(recent))
    )
    known = facts(trained_on=np.zeros((10, len(FEATURES))))
    decisions, _ = bars_of(760, lambda bar: np.full(len(FEATURES) + 4, float(bar)))
    for bars in range(500, 760):
        drift_text(known, decisions[:bars])
    assert measured in ([250] * 2, [250] * 3)
