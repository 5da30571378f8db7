"""Ingest may be repeated, reordered and killed anywhere; every expected bar is accounted for."""
# ruff: noqa: S603 - every process that is started runs a text of this file

import hashlib
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.candles import CandleStore
from storage.contracts import split_candles
from storage.schema import CANDLE_COLUMNS, Candles, Market, RejectedRow, Source, Window
from tests.storage.stored import commit_window, rejected_rows, table_hash

BYBIT = Source("bybit")
STEP = 300_000
START = 1_735_689_600_000  # 2025-01-01, which lies on the grid of every interval but the week
LATER = START + 10**9


def window(first: int, last: int) -> Window:
    """Bars `first` to `last`, both inclusive, counted from START."""
    return Window(first_ms=START + first * STEP, last_ms=START + last * STEP)


@pytest.fixture
def store(tmp_path):
    return CandleStore(tmp_path / "market.duckdb")


# --- promise 1: idempotent --------------------------------------------------------------------------------------------


def column_hash(candles: Candles) -> str:
    """Each column's length in bytes, then its little-endian values."""
    digest = hashlib.sha256()
    for name in ("start_ms", "open", "high", "low", "close", "volume", "turnover"):
        kind = "q" if name == "start_ms" else "d"
        values = b"".join(struct.pack(f"<{kind}", value) for value in getattr(candles, name).tolist())
        digest.update(struct.pack("<Q", len(values)) + values)
    return digest.hexdigest()


@pytest.mark.promise(1)
def test_table_hash_is_that_of_the_columns(store, market, make_candles):
    candles = make_candles(10)
    commit_window(store, BYBIT, market, window(0, 9), candles, (), LATER)
    assert table_hash(store, BYBIT, market) == column_hash(candles)


@pytest.mark.promise(1)
@pytest.mark.parametrize("zeros", [(0.0, -0.0), (-0.0, 0.0)])
def test_table_hash_is_the_same_whichever_zero_came_first(store, market, make_candles, zeros):
    for zero in zeros:
        candles = replace(make_candles(10), volume=np.full(10, zero))
        commit_window(store, BYBIT, market, window(0, 9), candles, (), LATER)
    assert table_hash(store, BYBIT, market) == column_hash(replace(candles, volume=np.zeros(10)))


@pytest.mark.promise(1)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_ingest_is_the_same_whatever_the_order_size_and_repeats_of_pages(data, tmp_path_factory, make_candles, equal):
    bars = 40
    market = Market(symbol="BTCUSDT", interval="5")
    served = make_candles(bars)
    absent = data.draw(st.sets(st.integers(0, bars - 1), max_size=8), label="never served")
    broken = data.draw(st.sets(st.integers(0, bars - 1), max_size=5), label="served with a negative low") - absent
    served = replace(served, low=np.where(np.isin(np.arange(bars), list(broken)), -1.0, served.low))
    served = served[~np.isin(np.arange(bars), list(absent))]
    pages = []
    for size in data.draw(st.lists(st.sampled_from([7, 20, 40]), min_size=1, max_size=2), label="page sizes"):
        pages += [window(first, min(first + size, bars) - 1) for first in range(0, bars, size)]
    pages = data.draw(st.permutations(pages), label="order")
    store = CandleStore(tmp_path_factory.mktemp("store") / "market.duckdb")
    for page in pages:
        rows = served[(served.start_ms >= page.first_ms) & (served.start_ms <= page.last_ms)]
        good, rejected = split_candles(rows[::-1], market, now_ms=LATER)
        commit_window(store, BYBIT, market, page, good, rejected, LATER)

    true = served[served.low > 0]
    assert equal(store.read(BYBIT, market), true)
    assert table_hash(store, BYBIT, market) == column_hash(true)
    assert store.missing_windows(BYBIT, market, START, START + (bars - 1) * STEP) == []
    assert {row.start_ms for row in rejected_rows(store, BYBIT, market)} == {START + bar * STEP for bar in broken}
    assert len(rejected_rows(store, BYBIT, market)) == len(broken)
    (coverage,) = store.coverage()
    assert (coverage.bars, coverage.gaps) == (len(true), len(absent | broken))


@pytest.mark.promise(1)
def test_bar_is_stored_once_when_threads_commit_it_at_once(store, market, make_candles, equal):
    candles = make_candles(500)

    def commit(_):
        return commit_window(store, BYBIT, market, window(0, 499), candles, (), LATER).inserted

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(commit, range(4))) == [0, 0, 0, 500]
    assert equal(store.read(BYBIT, market), candles)


INGEST = """
import os, signal, sys
import numpy as np
from storage.candles import CandleStore
from storage.commit import CheckedWindow
from storage.schema import CANDLE_COLUMNS, Candles, Market, Source

path, rows, where, left = sys.argv[1], np.load(sys.argv[2]), sys.argv[3], int(sys.argv[4])
candles = Candles(start_ms=rows["start_ms"], **{name: rows[name] for name in CANDLE_COLUMNS})

def count_down(frame, event, argument):
    global left
    if event == "line" and where in (frame.f_globals.get("__name__"), frame.f_code.co_name):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return count_down

if left:
    sys.settrace(count_down)
store, source, market = CandleStore(path), Source("bybit"), Market(symbol="BTCUSDT", interval="5")
for window in store.missing_windows(source, market, int(rows["first_ms"]), int(rows["last_ms"]), 100):
    page = candles[(candles.start_ms >= window.first_ms) & (candles.start_ms <= window.last_ms)]
    print("begin", flush=True)
    checked = CheckedWindow(window=window, candles=page, rejected=())
    store.commit_windows(source, market, [checked], int(rows["last_ms"]) + 10**9)
    print("committed", flush=True)
print("complete", flush=True)
"""


@pytest.fixture
def gappy_market(tmp_path, make_candles):
    """(file, candles) of 1,000 bars, every seventh of which was never served."""
    candles = make_candles(1_000)
    kept = candles[np.arange(1_000) % 7 != 3]
    columns = {name: getattr(kept, name) for name in ("start_ms", *CANDLE_COLUMNS)}
    np.savez(tmp_path / "rows.npz", first_ms=START, last_ms=START + 999 * STEP, **columns)
    return tmp_path / "rows.npz", kept


def windows_stored(path: Path) -> int:
    """How many windows are stored, all of them whole; pages of 100 begin 32 bars before START."""
    ends = [0, *range(68, 1_000, 100), 1_000]
    return ends.index(sum(row.bars + row.gaps for row in CandleStore(path).coverage()))


def require_complete(path: Path, market: Market, expected: Candles, equal) -> None:
    store = CandleStore(path)
    assert equal(store.read(BYBIT, market), expected)
    assert table_hash(store, BYBIT, market) == column_hash(expected)
    assert store.missing_windows(BYBIT, market, START, START + 999 * STEP) == []
    absent = sorted(set(range(START, START + 1_000 * STEP, STEP)) - set(expected.start_ms.tolist()))
    assert [gap.first_ms for gap in store.gaps(BYBIT, market)] == absent


@pytest.mark.promise(1)
def test_ingest_killed_at_any_line_ends_with_the_same_hash_when_run_again(tmp_path, market, gappy_market, equal):
    file, expected = gappy_market
    path = tmp_path / "market.duckdb"
    command = [sys.executable, "-c", INGEST, str(path), str(file)]
    # Making the file, then every second line of `commit` from its first statement to its last.
    lives = [("storage.database", lines) for lines in (15, 22, 29)] + [("commit", lines) for lines in range(3, 25, 2)]
    stored = 0
    for where, lines in lives:
        killed = subprocess.run([*command, where, str(lines)], capture_output=True, text=True, check=False)
        assert killed.returncode == -9, killed.stderr
        assert windows_stored(path) >= stored + killed.stdout.count("committed")
        stored = windows_stored(path)
    finished = subprocess.run([*command, "", "0"], capture_output=True, text=True, check=True)
    assert finished.stdout.endswith("complete\n")
    require_complete(path, market, expected, equal)


@pytest.mark.promise(1)
def test_ingest_killed_from_outside_loses_no_committed_window(tmp_path, market, gappy_market, equal):
    file, expected = gappy_market
    path = tmp_path / "market.duckdb"
    command = [sys.executable, "-c", INGEST, str(path), str(file), "", "0"]
    committed = 0
    for kills, windows in enumerate((1, 3, 2), start=1):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(2 * windows - 1):  # begin, committed, begin …: the kill falls somewhere into the last begun
                committed += process.stdout.readline() == "committed\n"
            process.kill()
            committed += process.stdout.read().count("committed")
        assert committed <= windows_stored(path) <= committed + kills  # a kill may come before a commit is reported
    subprocess.run(command, check=True, capture_output=True)
    require_complete(path, market, expected, equal)


# --- promise 2: nothing is dropped in silence -------------------------------------------------------------------------


@pytest.mark.promise(2)
def test_good_rejected_and_missing_account_for_every_expected_bar(store, market, make_candles):
    candles = make_candles(100)
    columns = {name: getattr(candles, name).copy() for name in ("start_ms", *CANDLE_COLUMNS)}
    for bar, name, value in [
        (3, "open", np.nan),
        (14, "high", np.inf),
        (15, "low", 0.0),
        (92, "close", -5.0),
        (65, "volume", np.nan),
        (35, "high", 1.0),
        (89, "turnover", np.inf),
    ]:
        columns[name][bar] = value
    served = Candles(**columns)[~np.isin(np.arange(100), [0, 50, 51, 99])]
    good, rejected = split_candles(served, market, now_ms=LATER)
    report = commit_window(store, BYBIT, market, window(0, 99), good, rejected, LATER)

    bars = {"rejected": {3, 14, 15, 35, 65, 89, 92}, "missing": {0, 50, 51, 99}}
    assert (report.inserted, report.rejected, report.gaps) == (89, 7, 11)
    recorded = {"rejected": set(), "missing": set()}
    for gap in store.gaps(BYBIT, market):
        recorded[gap.reason] |= set(range((gap.first_ms - START) // STEP, (gap.last_ms - START) // STEP + 1))
    assert recorded == bars
    stored = {(ms - START) // STEP for ms in store.read(BYBIT, market).start_ms.tolist()}
    assert stored == set(range(100)) - bars["rejected"] - bars["missing"]
    reasons = {(row.start_ms - START) // STEP: row.reason for row in rejected_rows(store, BYBIT, market)}
    assert reasons.keys() == bars["rejected"]
    assert reasons[3] == "open: not NaN"


@pytest.mark.promise(2)
@settings(max_examples=5, deadline=None)
@given(
    rows=st.lists(
        st.builds(
            RejectedRow,
            start_ms=st.none() | st.integers(-(10**30), 10**30) | st.just(START),
            raw=st.text(max_size=20) | st.just("\ud83d\x00'; drop table rejected; --"),
            reason=st.sampled_from(["not 7 fields", "unreadable number"]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_unreadable_row_is_kept_once_whatever_it_holds(rows, tmp_path_factory):
    store, market = CandleStore(tmp_path_factory.mktemp("store") / "market.duckdb"), Market(interval="5")
    for _ in range(2):
        report = commit_window(store, BYBIT, market, window(0, 0), Candles.empty(), rows, LATER)
        assert report.rejected == len(rows)
    kept = {(row.start_ms, row.raw, row.reason) for row in rejected_rows(store, BYBIT, market)}
    assert kept == {
        (
            row.start_ms if row.start_ms is not None and 0 <= row.start_ms <= 253_402_300_799_000 else None,
            row.raw.encode("utf-8", "replace").decode(),
            row.reason,
        )
        for row in rows
    }
    assert len(rejected_rows(store, BYBIT, market)) == len(kept)


@pytest.mark.promise(2)
@pytest.mark.parametrize("name", ["bybit_linear_adausdt_1m_gappy", "bybit_testnet_btcusdt_1m_gappy"])
def test_every_bar_of_a_real_gappy_file_is_accounted_for(store, name):
    folder = os.environ.get("DSC_TEST_DATA")
    if not folder:
        pytest.skip("DSC_TEST_DATA names no folder of real candles")
    table = pq.read_table(Path(folder) / "faulty" / f"{name}.parquet").to_pydict()
    served = Candles(**{column: np.array(table[column]) for column in ("start_ms", *CANDLE_COLUMNS)})
    market, first, last = Market(symbol="X1", interval="1"), int(served.start_ms[0]), int(served.start_ms[-1])
    bars = (last - first) // 60_000 + 1
    for page in store.missing_windows(BYBIT, market, first, last, 100_000):
        rows = served[(served.start_ms >= page.first_ms) & (served.start_ms <= page.last_ms)]
        good, rejected = split_candles(rows, market, now_ms=last + 60_000)
        commit_window(store, BYBIT, market, page, good, rejected, last + 60_000)

    (coverage,) = store.coverage()
    assert coverage.bars + coverage.gaps == bars
    assert coverage.bars + coverage.rejected == len(served) == 60_000
    jumps = np.flatnonzero(np.diff(served.start_ms) > 60_000)  # where the file itself skips bars
    missing = [gap for gap in store.gaps(BYBIT, market) if gap.reason == "missing"]
    assert [gap.first_ms for gap in missing] == (served.start_ms[jumps] + 60_000).tolist()
    assert [gap.last_ms for gap in missing] == (served.start_ms[jumps + 1] - 60_000).tolist()
    assert sum(gap.bars for gap in missing) == bars - 60_000
    assert store.missing_windows(BYBIT, market, first, last) == []
