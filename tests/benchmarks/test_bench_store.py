"""Rows 11 and 12: candles into DuckDB, and from the exchange into DuckDB."""

import json
import subprocess
import sys
from itertools import count
from pathlib import Path

import duckdb
import numpy as np
import pytest

from storage.candles import CandleStore
from storage.schema import CANDLE_COLUMNS, WINDOW_BARS, Market, Source, Window
from tasks.exchange.gateway import Gateway
from tasks.ingestion.candle_ingest import judge_windows
from tasks.market.synthetic import SyntheticMarket, generate
from tests.storage.stored import commit_window, table_hash

SOURCE, MARKET, STEP_MS = Source("sandbox:0123abcd"), Market(interval="5"), 300_000
ROWS, SERIAL_ROWS = 1_000_000, 3_000
INGESTED, LATENCY_MS, REQUESTS_PER_S, THREADS = 65_520, 150, 60.0, 16
ADDRESS_LIMIT_PER_S = 120  # Bybit's: 600 requests in 5 s, then 10 minutes of HTTP 403
SERIAL_WINDOWS = 12  # of 66, one request at a time; each is like any other

# The sandbox has a process of its own: in ours, client and server would share one interpreter lock.
SERVE = f"""
import json, sys
from storage.schema import Market, Source
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tasks.market.synthetic import SyntheticMarket, generate
candles = generate(SyntheticMarket(bars={INGESTED}))
listing = Listing(candles=candles, market=Market(interval="5"))
with Sandbox([listing], source=Source({SOURCE!r}), latency_ms={LATENCY_MS}) as sandbox:
    print(json.dumps([sandbox.url, sandbox.clock.now_ms()]), flush=True)
    for _ in sys.stdin:
        print(len(sandbox.requests), flush=True)
"""


def whole(candles) -> tuple[Window, int]:
    first, last = int(candles.start_ms[0]), int(candles.start_ms[-1])
    return Window(first_ms=first, last_ms=last), last + STEP_MS


def commit(path: Path, candles) -> CandleStore:
    window, now_ms = whole(candles)
    store = CandleStore(path)
    commit_window(store, SOURCE, MARKET, window, candles, (), now_ms)
    return store


def test_million_candles_are_stored_faster_than_row_by_row(race, ledger, compare, side, tmp_path):
    candles, files = generate(SyntheticMarket(bars=ROWS)), count()
    columns = np.column_stack([getattr(candles, name) for name in CANDLE_COLUMNS])[:SERIAL_ROWS]
    rows = [
        (SOURCE, MARKET.symbol, int(ms), *map(float, row)) for ms, row in zip(candles.start_ms, columns, strict=False)
    ]

    def ours():
        return commit(tmp_path / f"{next(files)}.duckdb", candles)

    def row_by_row():
        with duckdb.connect(tmp_path / f"{next(files)}.duckdb") as con:
            con.execute(
                "create table candles (source text, symbol text, start_ms bigint, open double, high double, low double,"
                " close double, volume double, turnover double, primary key (source, symbol, start_ms))"
            )
            con.begin()
            con.executemany("insert or replace into candles values (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            con.commit()

    store = ours()
    before = table_hash(store, SOURCE, MARKET)
    window, now_ms = whole(candles)
    again = commit_window(store, SOURCE, MARKET, window, candles, (), now_ms)
    assert (again.inserted, again.revised, table_hash(store, SOURCE, MARKET)) == (0, 0, before)

    # No warm-up: ours has run above, and theirs takes long.
    sides = {"upsert": side(ours, 1, ROWS), "executemany": side(row_by_row, 1, SERIAL_ROWS)}
    times = race(sides, rounds=2, warm=False)

    beside = {"seconds for 1,000,000": times.median_us("upsert"), "peak memory added, MB": _peak_mb(tmp_path)}
    ledger.enter(
        compare(
            11, "upsert_vs_executemany", times, "executemany", "upsert", "1,000,000 candles", at_least=30, beside=beside
        )
    )


def _peak_mb(folder: Path) -> float:
    """What a commit of all rows adds to the peak of a process that holds their columns."""
    code = f"""
import re, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_bench_store as bench
candles = bench.generate(bench.SyntheticMarket(bars=bench.ROWS))
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
bench.commit(Path({str(folder / "peak.duckdb")!r}), candles)
print((peak() - before) / 1000)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    return float(run.stdout)


@pytest.fixture
def served():
    """(url, now_ms, ask how many requests came) of a sandbox that takes its time."""
    with subprocess.Popen(  # noqa: S603  # the code above
        [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        url, now_ms = json.loads(process.stdout.readline())

        def requests() -> int:
            process.stdin.write("\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield url, now_ms, requests
        process.stdin.close()


def test_ingest_is_faster_than_one_request_at_a_time(race, ledger, compare, side, served, tmp_path):
    url, now_ms, requests = served
    first_ms = SyntheticMarket().start_ms
    files = count()

    def ingest(threads: int, windows: int | None = None) -> CandleStore:
        store = CandleStore(tmp_path / f"{next(files)}.duckdb")
        with Gateway("sandbox", source=SOURCE, url=url, threads=threads, requests_per_s=REQUESTS_PER_S) as gateway:
            wanted = Window.cover(MARKET, first_ms, first_ms + (INGESTED - 1) * STEP_MS)[:windows]
            for fetched in gateway.fetch_batches(MARKET, wanted, now_ms):
                store.commit_windows(SOURCE, MARKET, judge_windows(fetched, MARKET, now_ms), now_ms)
        return store

    before = requests()
    store = ingest(THREADS)
    asked = requests() - before
    assert sum(coverage.bars for coverage in store.coverage()) == INGESTED

    pages = -(-INGESTED // WINDOW_BARS)
    times = race(
        {
            "sixteen in flight": side(lambda: ingest(THREADS), 1, pages),
            "one at a time": side(lambda: ingest(1, SERIAL_WINDOWS), 1, SERIAL_WINDOWS),
        },
        rounds=3,
    )

    seconds = times.median_us("sixteen in flight") * pages / 1e6
    per_s = asked / seconds
    assert asked <= pages + 1
    assert asked <= REQUESTS_PER_S * seconds + THREADS  # that many may go at once: a fast machine meets the budget
    assert per_s < ADDRESS_LIMIT_PER_S
    beside = {"requests": asked, "requests per second": per_s, "Bybit's limit": ADDRESS_LIMIT_PER_S}
    ledger.enter(
        compare(
            12,
            "ingest_vs_serial",
            times,
            "one at a time",
            "sixteen in flight",
            "a page of 1,000",
            at_least=5,
            beside=beside,
        )
    )
