"""The candles that live readers see: the newest, whole, of one source, and never in anybody's way."""

import threading
from dataclasses import replace

import pytest

from storage.recent import RECENT_BARS, read_recent, write_recent
from storage.schema import Candles, StoreError

SOURCE, OTHER = "sandbox:0123abcd", "bybit"


def test_newest_candles_come_back_bit_for_bit(tmp_path, market, make_candles, equal):
    candles = make_candles(RECENT_BARS + 7)
    write_recent(tmp_path, SOURCE, market, candles)
    assert equal(read_recent(tmp_path, SOURCE, market), candles[7:])


def test_reader_before_the_first_ingest_finds_no_candles(tmp_path, market):
    assert len(read_recent(tmp_path, SOURCE, market)) == 0


def test_nothing_crosses_sources_or_markets(tmp_path, market, make_candles):
    path = write_recent(tmp_path, SOURCE, market, make_candles(5))
    hourly = replace(market, interval="60")
    assert len(read_recent(tmp_path, OTHER, market)) == len(read_recent(tmp_path, SOURCE, hourly)) == 0
    moved = tmp_path / OTHER / path.name
    moved.parent.mkdir()
    path.rename(moved)
    with pytest.raises(
        StoreError, match=f"must be of bybit linear-BTCUSDT-5, was of {SOURCE} linear-BTCUSDT-5; run in"
    ):
        read_recent(tmp_path, OTHER, market)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 100])
def test_damaged_file_is_refused_with_a_way_out(tmp_path, market, make_candles, content):
    write_recent(tmp_path, SOURCE, market, make_candles(5)).write_bytes(content)
    with pytest.raises(StoreError, match=r"\.parquet is damaged \(.*\); run ingest again"):
        read_recent(tmp_path, SOURCE, market)


def test_reader_sees_one_whole_file_or_the_next_while_it_is_replaced(tmp_path, market, make_candles, equal):
    versions = [make_candles(50, seed=seed) for seed in range(2)]
    write_recent(tmp_path, SOURCE, market, versions[0])
    over, torn = threading.Event(), []

    def read():
        while not over.is_set():
            seen = read_recent(tmp_path, SOURCE, market)
            if not any(equal(seen, version) for version in versions):
                torn.append(seen)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        write_recent(tmp_path, SOURCE, market, versions[turn % 2])
    over.set()
    reader.join()
    assert torn == []
    assert [path.name for path in tmp_path.rglob("*.parquet*")] == ["linear-BTCUSDT-5.parquet"]  # no draft is left


def test_folder_that_cannot_be_written_is_named_and_the_old_file_stays(tmp_path, market, make_candles, monkeypatch):
    write_recent(tmp_path, SOURCE, market, make_candles(5))
    monkeypatch.setattr("storage.whole_file.os.fsync", _disk_is_full)
    with pytest.raises(StoreError, match=r"can't be written \(No space left on device\); free space or set DSC_HOME"):
        write_recent(tmp_path, SOURCE, market, make_candles(9))
    assert len(read_recent(tmp_path, SOURCE, market)) == 5
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1, "no draft is left"


def test_no_candles_are_written_as_none(tmp_path, market):
    write_recent(tmp_path, SOURCE, market, Candles.empty())
    assert len(read_recent(tmp_path, SOURCE, market)) == 0


def _disk_is_full(*args, **kwargs):
    raise OSError(28, "No space left on device")
