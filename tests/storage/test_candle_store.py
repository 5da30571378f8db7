"""The store's tables: what goes in comes out, of the right source, and what is absent is on record."""

from dataclasses import replace

import duckdb
import numpy as np
import pytest

from storage.candles import CandleStore, Coverage, FlowRun, Gap
from storage.commit import CheckedWindow
from storage.schema import (
    CandleError,
    Candles,
    ConfigError,
    Market,
    RejectedRow,
    Source,
    StoreError,
    Window,
)
from tests.storage.stored import commit_window, rejected_rows, table_hash

BYBIT = Source("bybit")
REPLAY = Source("sandbox:0123abcd")
STEP = 300_000
START = 1_735_689_600_000  # 2025-01-01, which lies on the grid of every interval but the week
LATER = START + 10**9


def window(first: int, last: int) -> Window:
    """Bars `first` to `last`, both inclusive, counted from START."""
    return Window(first_ms=START + first * STEP, last_ms=START + last * STEP)


@pytest.fixture
def store(tmp_path):
    return CandleStore(tmp_path / "market.duckdb")


# --- one window -------------------------------------------------------------------------------------------------------


def test_commit_stores_candles_as_they_are_and_reports_them(store, market, make_candles, equal):
    candles = make_candles(10)
    report = commit_window(store, BYBIT, market, window(0, 9), candles, (), LATER)
    assert (report.inserted, report.revised, report.rejected, report.gaps) == (10, 0, 0, 0)
    assert equal(store.read(BYBIT, market), candles)
    assert equal(store.read(BYBIT, market, START + 2 * STEP, START + 4 * STEP), candles[2:5])


@pytest.mark.promise(1)
def test_windows_over_one_connection_are_stored_as_if_one_by_one(store, market, make_candles, tmp_path):
    candles, rejected = make_candles(30), RejectedRow(start_ms=START + 12 * STEP, raw="[]", reason="no numbers")
    kept = candles[np.r_[0:12, 13:30]]
    parts = {window(0, 9): slice(0, 10), window(10, 19): slice(10, 19), window(20, 29): slice(19, 29)}
    pages = [
        CheckedWindow(window=w, candles=kept[rows], rejected=[rejected] * (w == window(10, 19)))
        for w, rows in parts.items()
    ]
    alone = CandleStore(tmp_path / "alone.duckdb")

    together = store.commit_windows(BYBIT, market, pages, LATER)

    one_by_one = [commit_window(alone, BYBIT, market, p.window, p.candles, p.rejected, LATER) for p in pages]
    assert together == one_by_one
    assert [(report.inserted, report.rejected, report.gaps) for report in together] == [
        (10, 0, 0),
        (9, 1, 1),
        (10, 0, 0),
    ]
    assert table_hash(store, BYBIT, market) == table_hash(alone, BYBIT, market)
    assert store.gaps(BYBIT, market) == alone.gaps(BYBIT, market)


def test_window_that_breaks_a_rule_keeps_the_windows_beside_it_out(store, market, make_candles):
    candles = make_candles(20)
    pages = [
        CheckedWindow(window=window(0, 9), candles=candles[:10], rejected=()),
        CheckedWindow(window=window(10, 19), candles=candles[5:15], rejected=()),
    ]
    with pytest.raises(CandleError, match="must be inside its window"):
        store.commit_windows(BYBIT, market, pages, LATER)
    assert len(store.read(BYBIT, market)) == 0


@pytest.mark.promise(1)
def test_windows_before_a_failing_transaction_stay_stored_and_the_failing_one_leaves_nothing(
    store, market, make_candles, equal
):
    candles = make_candles(20)
    twice = RejectedRow(start_ms=None, raw="\ud800", reason=None)  # a reason that the table must not hold
    pages = [
        CheckedWindow(window=window(0, 9), candles=candles[:10], rejected=()),
        CheckedWindow(window=window(10, 19), candles=candles[10:], rejected=[twice]),
    ]
    with pytest.raises(duckdb.ConstraintException):
        store.commit_windows(BYBIT, market, pages, LATER)
    assert equal(store.read(BYBIT, market), candles[:10])


def test_commit_takes_new_values_and_fills_gaps_when_a_window_comes_again(store, market, make_candles, equal):
    candles = make_candles(10)
    first = commit_window(store, BYBIT, market, window(0, 9), candles[np.r_[0:4, 6:10]], (), LATER)
    assert (first.inserted, first.gaps) == (8, 2)
    assert store.gaps(BYBIT, market) == [
        Gap(first_ms=START + 4 * STEP, last_ms=START + 5 * STEP, bars=2, reason="missing")
    ]
    close = candles.close.copy()
    close[[1, 7]] = candles.low[[1, 7]]
    revised = replace(candles, close=close)
    second = commit_window(store, BYBIT, market, window(0, 9), revised, (), LATER)
    assert (second.inserted, second.revised, second.gaps) == (2, 2, 0)
    assert store.gaps(BYBIT, market) == []
    assert equal(store.read(BYBIT, market), revised)


def test_bar_that_has_not_closed_is_no_gap(store, market, make_candles):
    now = START + 8 * STEP + STEP // 2  # bars 0 to 7 have closed
    report = commit_window(store, BYBIT, market, window(0, 9), make_candles(7), (), now)
    assert report.gaps == 1
    assert [gap.first_ms for gap in store.gaps(BYBIT, market)] == [START + 7 * STEP]


@pytest.mark.promise(1)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c[[0, 1, 1, 2]], "later than the one before, that of 2025-01-01T00:05Z"),
        (lambda c: c[::-1], "later than the one before, that of 2025-01-01T00:40Z"),
        (lambda c: replace(c, start_ms=c.start_ms + 1), "on the interval grid, that of 2025-01-01T00:00Z"),
        (lambda c: replace(c, start_ms=c.start_ms + STEP * 2), "inside its window, that of 2025-01-01T00:50Z"),
        (lambda c: replace(c, open=np.where(c.start_ms == START, np.nan, c.open)), "finite in open, that of 2025"),
        (lambda c: replace(c, high=np.full(10, np.inf)), "finite in high, that of 2025-01-01T00:00Z"),
        (lambda c: replace(c, turnover=np.full(10, np.inf)), "finite in turnover, or NaN, that of 2025-01-01T00:00Z"),
    ],
)
def test_untrue_candle_is_refused_and_nothing_is_stored(store, market, make_candles, spoil, message):
    with pytest.raises(CandleError, match=f"a stored candle must be {message}.* is not; use split_candles first"):
        commit_window(store, BYBIT, market, window(0, 9), spoil(make_candles(10)), (), LATER)
    assert store.coverage() == []


@pytest.mark.promise(1)
def test_forming_candle_is_refused_until_the_millisecond_it_closes(store, market, make_candles):
    closes = START + 10 * STEP
    with pytest.raises(CandleError, match=r"a stored candle must be closed, that of 2025-01-01T00:45Z is not"):
        commit_window(store, BYBIT, market, window(0, 9), make_candles(10), (), closes - 1)
    assert commit_window(store, BYBIT, market, window(0, 9), make_candles(10), (), closes).inserted == 10


@pytest.mark.parametrize("wrong", [window(3, 2), Window(first_ms=START + 1, last_ms=START + STEP)])
def test_window_off_the_grid_is_refused(store, market, wrong):
    with pytest.raises(ConfigError, match=r"a window must lie on the interval grid, first <= last, was Window\(first"):
        commit_window(store, BYBIT, market, wrong, Candles.empty(), (), LATER)


def test_repeated_key_written_by_other_hands_is_noticed(store, market, make_candles, tmp_path):
    commit_window(store, BYBIT, market, window(0, 4), make_candles(5), (), LATER)
    with duckdb.connect(tmp_path / "market.duckdb") as con:
        con.execute("insert into candles from candles limit 1")
    with pytest.raises(StoreError, match=r"start_time must be unique, it is repeated after 2025-01-01T00:00Z"):
        commit_window(store, BYBIT, market, window(0, 9), make_candles(10), (), LATER)
    assert len(store.read(BYBIT, market)) == 6


# --- promise 0: nothing crosses sources -------------------------------------------------------------------------------


@pytest.mark.promise(0)
def test_nothing_crosses_sources_or_markets_in_any_table(store, make_candles, equal):
    markets = [
        Market(symbol="BTCUSDT", category="linear", interval="5"),
        Market(symbol="ETHUSDT", category="linear", interval="5"),
        Market(symbol="BTCUSDT", category="spot", interval="5"),
        Market(symbol="BTCUSDT", category="linear", interval="15"),
    ]
    keys = [(source, market) for source in (BYBIT, REPLAY) for market in markets]
    rows = {}
    for seed, (source, market) in enumerate(keys):
        candles = make_candles(10, step=market.interval_ms, seed=seed)
        kept = candles[candles.start_ms != candles.start_ms[seed % 10]]
        asked = Window(first_ms=START, last_ms=int(candles.start_ms[-1]))
        refused = RejectedRow(start_ms=START, raw=f"row {seed}", reason="tried")
        commit_window(store, source, market, asked, kept, (refused,), LATER)
        if market.interval == "5":
            store.upsert_funding(source, market, np.array([START]), np.array([float(seed)]))
        rows[source, market] = kept
    for seed, (source, market) in enumerate(keys):
        assert equal(store.read(source, market), rows[source, market])
        assert [gap.first_ms for gap in store.gaps(source, market)] == [START + seed % 10 * market.interval_ms]
        assert [row.raw for row in rejected_rows(store, source, market)] == [f"row {seed}"]
        if market.interval == "5":
            assert store.read_funding(source, market)[1].tolist() == [float(seed)]
        elsewhere = Source("sandbox:ffffffff")
        assert len(store.read(elsewhere, market)) == 0
        last = START + 9 * market.interval_ms
        assert store.missing_windows(source, market, START, last) == []
        assert len(store.missing_windows(elsewhere, market, START, last)) == 1


@pytest.mark.promise(0)
def test_revision_in_one_source_leaves_the_same_bar_of_another_alone(store, market, make_candles):
    for source in (BYBIT, REPLAY):
        commit_window(store, source, market, window(0, 9), make_candles(10), (), LATER)
    before = table_hash(store, BYBIT, market)
    assert table_hash(store, REPLAY, market) == before
    commit_window(store, REPLAY, market, window(0, 9), make_candles(10, seed=2), (), LATER)
    assert table_hash(store, BYBIT, market) == before
    assert table_hash(store, REPLAY, market) != before


@pytest.mark.promise(0)
def test_row_without_a_true_source_is_refused_everywhere(store, market, make_candles):
    wrong = Source("Bybit")
    calls = [
        lambda: commit_window(store, wrong, market, window(0, 9), make_candles(10), (), LATER),
        lambda: store.read(wrong, market),
        lambda: store.gaps(wrong, market),
        lambda: store.missing_windows(wrong, market, START, START),
        lambda: store.upsert_funding(wrong, market, np.array([START]), np.array([0.1])),
        lambda: store.start_run(wrong, market, START),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"source must be bybit, .* was 'Bybit'"):
            call()
    assert (store.coverage(), store.latest_runs()) == ([], [])


# --- what is missing --------------------------------------------------------------------------------------------------


def test_missing_windows_of_an_empty_store_are_those_that_cover_the_range(store, market):
    for last_ms in (START + 1_500 * STEP + 7, START, START - 1):
        assert store.missing_windows(BYBIT, market, START - 1, last_ms) == Window.cover(market, START - 1, last_ms)


def test_missing_windows_leave_out_what_is_stored_or_a_recorded_gap(store, market, make_candles):
    candles = make_candles(100)
    commit_window(store, BYBIT, market, window(0, 49), candles[:40], (), LATER)
    commit_window(store, BYBIT, market, window(60, 99), candles[60:], (), LATER)
    ask = (BYBIT, market, START, START + 99 * STEP, 10)
    assert store.missing_windows(*ask) == [window(48, 57), window(58, 67)]
    assert store.missing_windows(*ask, recheck_gaps=True)[:2] == [window(38, 47), window(48, 57)]


@pytest.mark.promise(1)
def test_window_that_came_back_empty_is_asked_again_until_a_bar_of_it_is_stored(store, market, make_candles):
    ask = (BYBIT, market, START, START + 99 * STEP)
    commit_window(store, BYBIT, market, window(0, 99), Candles.empty(), (), LATER)
    assert sum(gap.bars for gap in store.gaps(BYBIT, market)) == 100
    assert store.missing_windows(*ask) == [window(0, 99)]
    assert store.count(*ask) == 0
    commit_window(store, BYBIT, market, window(0, 99), make_candles(1), (), LATER)
    assert store.missing_windows(*ask) == []
    assert store.count(*ask) == 1
    assert store.count(BYBIT, market, START + STEP, START + 99 * STEP) == 0


def test_gaps_are_runs_of_bars_split_by_reason_and_cut_to_the_range(store, market, make_candles):
    candles = make_candles(20)
    kept = candles[np.r_[0:5, 12:20]]
    rejected = [RejectedRow(start_ms=START + bar * STEP, raw="", reason="tried") for bar in (7, 8)]
    commit_window(store, BYBIT, market, window(0, 19), kept, rejected, LATER)
    runs = [(gap.first_ms, gap.last_ms, gap.bars, gap.reason) for gap in store.gaps(BYBIT, market)]
    assert runs == [
        (START + 5 * STEP, START + 6 * STEP, 2, "missing"),
        (START + 7 * STEP, START + 8 * STEP, 2, "rejected"),
        (START + 9 * STEP, START + 11 * STEP, 3, "missing"),
    ]
    (cut,) = store.gaps(BYBIT, market, START + 10 * STEP)
    assert (cut.first_ms, cut.bars) == (START + 10 * STEP, 2)


# --- the rest of the file ---------------------------------------------------------------------------------------------


def test_coverage_has_a_row_for_each_source_and_market(store, market, make_candles):
    commit_window(store, BYBIT, market, window(0, 9), make_candles(8), (), LATER)
    unread = RejectedRow(start_ms=None, raw="?", reason="unreadable")
    commit_window(store, REPLAY, market, window(0, 0), Candles.empty(), (unread,), LATER)
    assert store.coverage() == [
        Coverage(source=BYBIT, market=market, bars=8, first_ms=START, last_ms=START + 7 * STEP, gaps=2, rejected=0),
        Coverage(source=REPLAY, market=market, bars=0, first_ms=None, last_ms=None, gaps=1, rejected=1),
    ]


def test_reading_an_empty_store_gives_empty_columns_of_the_right_kind(store, market):
    candles = store.read(BYBIT, market)
    assert (len(candles), candles.start_ms.dtype, candles.close.dtype) == (0, np.int64, np.float64)
    stamps, rates = store.read_funding(BYBIT, market)
    assert (len(stamps), stamps.dtype, rates.dtype) == (0, np.int64, np.float64)


def test_funding_is_stored_once_by_stamp_for_all_intervals_of_a_market(store, market):
    stamps, rates = np.array([START, START + 28_800_000]), np.array([1e-4, -2e-4])
    assert store.upsert_funding(BYBIT, market, stamps[1:], rates[1:]) == 1
    assert store.upsert_funding(BYBIT, market, stamps, rates) == 1
    assert store.upsert_funding(BYBIT, market, stamps, rates) == 0
    assert store.upsert_funding(BYBIT, market, stamps[:0], rates[:0]) == 0
    read = store.read_funding(BYBIT, Market(symbol="BTCUSDT", interval="60"))
    assert (read[0].tolist(), read[1].tolist()) == (stamps.tolist(), rates.tolist())


def test_funding_is_read_by_its_minute_when_a_stamp_comes_late(store, market):
    due = START + 28_800_000 * np.arange(4)
    late = np.array([0, 7, 997, 59_999])
    assert store.upsert_funding(BYBIT, market, due + late, np.full(4, 1e-4)) == 4
    assert store.upsert_funding(BYBIT, market, due + late, np.full(4, 1e-4)) == 0
    assert store.read_funding(BYBIT, market)[0].tolist() == due.tolist()


@pytest.mark.parametrize(
    ("stamps", "rates"), [([1, 1], [0.1, 0.1]), ([2, 1], [0.1, 0.1]), ([1], [np.nan]), ([1, 2], [0.1])]
)
def test_funding_is_refused_when_stamps_repeat_or_a_rate_is_not_finite(store, market, stamps, rates):
    with pytest.raises(CandleError, match="funding must be one finite rate a stamp, stamps strictly increasing"):
        store.upsert_funding(BYBIT, market, np.array(stamps), np.array(rates))


def test_run_is_recorded_from_its_start_and_says_how_it_ended(store, market):
    store.start_run(BYBIT, market, START)
    done = store.start_run(REPLAY, market, START + 1)
    store.finish_run(done, "completed", START + 2)
    slug = "linear-BTCUSDT-5"
    killed = FlowRun(BYBIT, slug, START, "running")
    assert store.latest_runs() == [FlowRun(REPLAY, slug, START + 1, "completed"), killed]
    store.start_run(BYBIT, market, START + 2)
    assert [run.started_ms for run in store.latest_runs()] == [START + 2, START + 1]


def test_run_that_was_never_started_cannot_finish(store):
    with pytest.raises(StoreError, match="a run must be started before it can finish, 'r9' was not"):
        store.finish_run("r9", "completed", START)
