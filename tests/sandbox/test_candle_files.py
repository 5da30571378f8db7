"""A candle file is read as it stands, or refused with the row that is wrong."""

from __future__ import annotations

import gzip
import os
import re
import zipfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from storage.schema import CandleError, Candles, ConfigError
from tasks.sandbox.candle_files import base_interval, file_source, read_candle_file, read_funding_file

HEADER = "start_ms,open,high,low,close,volume,turnover\n"
ROWS = (
    "1735689600000,93530.0,93672.8,93501.3,93630.1,147.13,\n1735689900000,93630.1,93650,93552.4,93574.1,76.928,7200.5\n"
)


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "candles.csv"
    path.write_text(text)
    return path


def assert_is_the_table(candles: Candles) -> None:
    assert candles.start_ms.tolist() == [1_735_689_600_000, 1_735_689_900_000]
    assert candles.open.tolist() == [93530.0, 93630.1]
    assert candles.high.tolist() == [93672.8, 93650.0]
    assert candles.volume.tolist() == [147.13, 76.928]
    assert np.isnan(candles.turnover[0])
    assert candles.turnover[1] == 7200.5


def test_csv_is_read_with_unknown_turnover_as_nan(tmp_path: Path) -> None:
    assert_is_the_table(read_candle_file(write_csv(tmp_path, HEADER + ROWS)))


def test_gzipped_csv_is_read(tmp_path: Path) -> None:
    path = tmp_path / "candles.csv.gz"
    path.write_bytes(gzip.compress((HEADER + ROWS).encode()))
    assert_is_the_table(read_candle_file(path))


def test_parquet_is_read_and_further_columns_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "candles.parquet"
    table = {
        "note": ["a", "b"],
        "start_ms": [1_735_689_600_000, 1_735_689_900_000],
        "open": [93530.0, 93630.1],
        "high": [93672.8, 93650.0],
        "low": [93501.3, 93552.4],
        "close": [93630.1, 93574.1],
        "volume": [147.13, 76.928],
        "turnover": [None, 7200.5],
    }
    pyarrow.parquet.write_table(pa.table(table), path)
    assert_is_the_table(read_candle_file(path))


def test_file_without_turnover_has_it_unknown(tmp_path: Path) -> None:
    text = "start_ms,open,high,low,close,volume\n1735689600000,1,2,0.5,1.5,10\n"
    assert np.isnan(read_candle_file(write_csv(tmp_path, text)).turnover).tolist() == [True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "time,open\n1,2\n",
            "must have the columns start_ms, open, .* lacks high, low, close, volume; it has time, open",
        ),
        (HEADER, "must hold candles, candles.csv has no row"),
        (HEADER + "1735689600000,x,2,1,1,1,1\n", "open must hold numbers, in candles.csv row 0 has 'x'"),
        (
            HEADER + ROWS + "1735690200000,1,2,1,,5,\n",
            "close must hold finite numbers, in candles.csv 1 are not, the first in row 2",
        ),
        (HEADER + "1735689600000,1,2,nan,1,5,\n", "low must hold finite numbers, .* the first in row 0"),
        (
            HEADER + "735689600,1,2,1,1,5,\n",
            "must be UTC milliseconds of 2009 to 2100, in candles.csv row 0 has 735689600; give the open time",
        ),
        (
            HEADER + "1735689600000.5,1,2,1,1,5,\n",
            "start_ms must hold whole UTC milliseconds in every row, .* it is double",
        ),
        (HEADER + ROWS + ROWS, "strictly increasing, in candles.csv row 2 is older than the one before; sort it"),
        (
            HEADER + ROWS + ROWS.splitlines()[1] + "\n",
            "strictly increasing, in candles.csv row 2 repeats the one before; keep one row a bar",
        ),
    ],
)
def test_broken_file_is_refused_with_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CandleError, match=message):
        read_candle_file(write_csv(tmp_path, text))


def test_candles_of_the_future_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CandleError, match=r"candles must be of the past, candles.csv ends at 2031-"):
        read_candle_file(write_csv(tmp_path, HEADER + "1930089600000,1,2,1,1,5,\n"))


def test_file_that_is_no_parquet_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "candles.parquet"
    path.write_bytes(b"not a table")
    text = r"^candles.parquet can't be read as a candle file \(.*\); download or export it again$"
    with pytest.raises(CandleError, match=text):
        read_candle_file(path)


def test_file_with_another_ending_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "candles.xlsx"
    path.touch()
    with pytest.raises(ConfigError, match=r"must end in .parquet, .csv, .csv.gz or .zip, was 'candles.xlsx'"):
        read_candle_file(path)


def test_missing_file_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"candles and funding must name a file, .*nowhere.csv is none"):
        read_candle_file(tmp_path / "nowhere.csv")
    with pytest.raises(ConfigError, match="candles and funding must name a file"):
        file_source(tmp_path / "nowhere.csv")


@pytest.mark.promise(0)
def test_source_names_the_candles_in_whatever_file_they_are(tmp_path: Path) -> None:
    path = write_csv(tmp_path, HEADER + ROWS)
    source = file_source(path)
    packed, written, columnar = (tmp_path / name for name in ("a.csv.gz", "b.csv", "c.parquet"))
    packed.write_bytes(gzip.compress(path.read_bytes()))
    written.write_text(
        "note," + HEADER + "".join(f"x,{row}\n" for row in ROWS.replace("93530.0", "93530").splitlines())
    )
    assert file_source(packed) == file_source(written) == source
    candles = read_candle_file(path)
    table = pa.table({name: getattr(candles, name) for name in HEADER.strip().split(",")})
    for compression in ("gzip", "zstd"):
        pyarrow.parquet.write_table(table, columnar, compression=compression)
        assert file_source(columnar) == source


@pytest.mark.promise(0)
@pytest.mark.parametrize(("old", "new"), [("147.13", "147.14"), ("7200.5", ""), ("1735689900000", "1735690200000")])
def test_source_changes_with_any_number_of_the_file_and_with_another_bar(tmp_path: Path, old: str, new: str) -> None:
    path = write_csv(tmp_path, HEADER + ROWS)
    source = file_source(path)
    path.write_text(HEADER + ROWS.replace(old, new))
    assert file_source(path) != source
    path.write_text(HEADER + ROWS + "1735690200000,1,2,1,1,5,\n")
    assert file_source(path) != source
    path.write_text(HEADER + ROWS)
    assert file_source(path) == source


@pytest.mark.promise(0)
def test_source_of_a_replay_with_funding_differs_from_the_one_without(tmp_path: Path) -> None:
    candles, funding = write_csv(tmp_path, HEADER + ROWS), tmp_path / "funding.csv"
    funding.write_text("start_ms,funding_rate\n1735689600000,0.0001\n")
    source = file_source(candles, funding)
    assert source != file_source(candles)
    funding.write_text("start_ms,funding_rate\n1735689600000,1e-4\n")
    assert file_source(candles, funding) == source
    funding.write_text("start_ms,funding_rate\n1735689600000,0.0002\n")
    assert file_source(candles, funding) != source


def test_funding_file_is_read_as_stamps_and_rates(tmp_path: Path) -> None:
    path = tmp_path / "funding.csv"
    path.write_text("start_ms,funding_rate\n1735689600000,0.0001\n1735718400000,-0.00002\n")
    assert read_funding_file(path) == [(1_735_689_600_000, 0.0001), (1_735_718_400_000, -0.00002)]


def test_funding_file_without_rates_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "funding.csv"
    path.write_text("start_ms,rate\n1735689600000,0.0001\n")
    with pytest.raises(
        CandleError,
        match=r"a funding file must have the columns start_ms, funding_rate; funding.csv lacks funding_rate",
    ):
        read_funding_file(path)


def opening_at(folder: Path, *starts: int) -> Candles:
    rows = "".join(f"{1_735_689_600_000 + ms},1,2,1,1,5,\n" for ms in starts)
    return read_candle_file(write_csv(folder, HEADER + rows))


def test_base_interval_is_the_commonest_step_whatever_is_missing(tmp_path: Path) -> None:
    assert base_interval(opening_at(tmp_path, *(300_000 * bar for bar in (0, 3, 4, 9)))) == "5"
    assert base_interval(opening_at(tmp_path, *(300_000 * bar for bar in (0, 1, 2, 3, 60, 61)))) == "5"


DAY, HOUR = 86_400_000, 3_600_000


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        (
            (0, 300_000, 307_000, 600_000),
            "bars of interval 5 must open on its grid, 1 of 4 rows do not, the first is row 2, at 1735689907000; drop",
        ),
        (
            [*(HOUR * bar for bar in range(30)), *(HOUR * bar + 1_695_000 for bar in range(30, 60))],
            "bars of interval 60 must open on its grid, 30 of 60 rows do not, the first is row 30",
        ),
        (
            [*(HOUR * bar for bar in range(20)), 20 * HOUR - 1_000, 20 * HOUR],
            "1 of 22 rows do not, the first is row 20",
        ),
        ([8 * HOUR * bar for bar in range(5)], "most of these are 8:00:00 apart; make one of them by resampling"),
        ([DAY * bar - 8 * HOUR for bar in range(5)], "days must open at 00:00 UTC, these open 16:00:00 later"),
        (
            [7 * DAY * bar + DAY for bar in range(5)],
            "weeks must open on Mondays at 00:00 UTC, these open 3 days, 0:00:00 later",
        ),
        (
            [300_000 * bar + 60_000 for bar in range(5)],
            "bars must open at whole multiples of their interval, UTC, these",
        ),
    ],
)
def test_rows_off_the_grid_are_refused_with_advice_that_fits(
    tmp_path: Path, starts: Sequence[int], message: str
) -> None:
    candles = opening_at(tmp_path, *starts)
    with pytest.raises(CandleError, match=message):
        base_interval(candles)


def test_numbers_are_read_whatever_they_are_written_as(tmp_path: Path) -> None:
    path = tmp_path / "candles.parquet"
    table = {
        "start_ms": [1_735_689_600_000, 1_735_689_900_000],
        "open": pa.array([Decimal("93530.0"), Decimal("93630.1")], pa.decimal128(12, 1)),
        "high": ["93672.8", "93650"],
        "low": [93501.3, 93552.4],
        "close": [93630.1, 93574.1],
        "volume": [2**53 + 1, 76],
    }
    pyarrow.parquet.write_table(pa.table(table), path)
    candles = read_candle_file(path)
    assert candles.open.tolist() == [93530.0, 93630.1]
    assert candles.high.tolist() == [93672.8, 93650.0]
    assert candles.volume.tolist() == [2.0**53, 76.0]


def test_column_that_is_there_twice_and_a_dash_are_refused_by_name(tmp_path: Path) -> None:
    text = "start_ms,open,high,low,close,volume,volume\n1735689600000,1,2,1,1,5,5\n"
    with pytest.raises(CandleError, match=r"each column once, candles.csv has volume twice"):
        read_candle_file(write_csv(tmp_path, text))
    with pytest.raises(CandleError, match=r"close must hold numbers, in candles.csv row 2 has '-'"):
        read_candle_file(write_csv(tmp_path, HEADER + ROWS + "1735690200000,1,2,1,-,5,\n"))


S = 1_735_689_600  # 2025-01-01
OHLCV = "1.0,2.0,0.5,1.5,10.5"
BINANCE = "{open},1.0,2.0,0.5,1.5,10.5,{close},12.0,3,5.0,6.0,0"
UM = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"


def binance(unit: int, later: int | None = None) -> str:
    units = [unit, unit, later or unit]
    return "\n".join(
        BINANCE.format(open=(S + 60 * bar) * unit, close=(S + 60 * bar + 60) * unit - 1)
        for bar, unit in enumerate(units)
    )


DUMPS = {
    "Kraken": ("\n".join(f"{S + 60 * bar},{OHLCV},7" for bar in range(3)), "no header, .*; times are seconds"),
    "Binance": (binance(10**3), "no header, columns are .*turnover$"),
    "Binance from 2025 on": (binance(10**6), "times are microseconds"),
    "Binance across its change": (binance(10**3, 10**6), "times are milliseconds and microseconds"),
    "Binance futures": (f"{UM}\n{binance(10**3)}", "start_ms is 'open_time'; turnover is 'quote_volume'"),
    "Bitstamp": (
        "timestamp,open,high,low,close,volume\n" + "\n".join(f"{S + 60 * bar},{OHLCV}" for bar in range(3)),
        "start_ms is 'timestamp'; times are seconds",
    ),
    "Bitfinex": (
        "Date, Symbol, Open, High, Low, Close, Volume\n"
        + "\n".join(f"2025-01-01 00:0{bar}:00, BTCUSD, 1.0, 2.0, 0.5, 1.5, 10.5" for bar in range(3)),
        "start_ms is 'Date'; times are dates, UTC",
    ),
    "CryptoDataDownload": (
        "https://www.CryptoDataDownload.com\nUnix,Date,Symbol,Open,High,Low,Close,Volume USD,Volume BTC,tradecount\n"
        + "\n".join(f"{S + 60 * bar},2025-01-01,BTC/USD,100,200,50,150,1050.0,10.5,3" for bar in (2, 1, 0)),
        "line 1 is no header but a title, .*; times are seconds; of two volumes .*; the newest comes first",
    ),
    "title case and ISO dates": (
        "\ufeffDate,Open,High,Low,Close,Volume\n" + "\n".join(f"2025-01-01T00:0{bar}:00Z,{OHLCV}" for bar in range(3)),
        "times are dates, with their zone",
    ),
}


@pytest.mark.parametrize("dump", DUMPS)
def test_published_dump_is_read_as_it_is_and_a_line_says_how(tmp_path: Path, dump: str) -> None:
    text, said = DUMPS[dump]
    notes: list[str] = []
    candles = read_candle_file(write_csv(tmp_path, text), notes.append)
    assert candles.start_ms.tolist() == [(S + 60 * bar) * 1_000 for bar in range(3)]
    assert candles.volume.tolist() == [10.5] * 3
    assert base_interval(candles) == "1"
    (note,) = notes
    assert re.search(f"candles.csv was read so: .*{said}", note)


def test_our_own_file_is_read_without_a_word(tmp_path: Path) -> None:
    read_candle_file(write_csv(tmp_path, HEADER + ROWS), pytest.fail)


def test_zipped_dump_is_read_where_it_holds_one_file(tmp_path: Path) -> None:
    path = tmp_path / "candles.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", HEADER + ROWS)
    assert_is_the_table(read_candle_file(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.csv", HEADER + ROWS)
    with pytest.raises(CandleError, match=r"candles.zip can't be read .*it must hold one CSV file, it holds 2"):
        read_candle_file(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "\n".join(f"{S + 60 * bar},0.5,2.0,1.0,1.5,10" for bar in range(3)),
            "no header, and its columns are not time, o",
        ),
        (
            "\n".join(f"{S + 60 * bar},{OHLCV},7,8" for bar in range(3)),
            "no header, and 8 columns may be anything; give it",
        ),
        (
            "date,open,high,low,close,volume\n01/02/2025,1,2,1,1,3\n",
            "number or a date such as 2025-.*row 0 has '01/02/2025'",
        ),
        (
            f"time,open,high,low,close,volume x,volume y\n{S},1,1.1,0.9,1,10,10\n",
            "two volumes, volume x and volume y; call the one in coins volume",
        ),
    ],
)
def test_dump_of_which_several_readings_are_possible_is_refused_with_what_to_give(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(CandleError, match=message):
        read_candle_file(write_csv(tmp_path, text))


@pytest.mark.promise(19)
def test_pipe_is_no_candle_file(tmp_path: Path) -> None:
    path = tmp_path / "candles.csv"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"must name a file: .*candles.csv must be a regular file"):
        file_source(path)


@pytest.mark.promise(19)
@pytest.mark.parametrize("ending", ["csv.gz", "zip"])
def test_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr("tasks.sandbox.candle_files._MOST_TEXT", 100_000)
    path, text = tmp_path / f"candles.{ending}", b"1" * 100_001
    if ending == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.csv", text)
    else:
        path.write_bytes(gzip.compress(text))
    with pytest.raises(CandleError, match="unpacked it has more than 100,000 bytes"):
        read_candle_file(path)


def test_single_candle_shows_no_interval(tmp_path: Path) -> None:
    with pytest.raises(CandleError, match="needs at least two candles, to show its interval; it has 1"):
        base_interval(read_candle_file(write_csv(tmp_path, HEADER + ROWS.splitlines()[0] + "\n")))


def test_real_file_is_read_whole() -> None:
    folder = os.environ.get("DSC_TEST_DATA")
    if not folder:
        pytest.skip("needs real candles: DSC_TEST_DATA is not set")
    candles = read_candle_file(Path(folder) / "candles" / "bybit_linear_BTCUSDT_5m.parquet")
    assert len(candles) == 131_040
    assert candles.start_ms[[0, -1]].tolist() == [1_735_689_600_000, 1_775_001_300_000]  # 2025-01-01 to 2026-03-31
    assert candles.close[[0, -1]].tolist() == [93630.1, 68244.6]
    assert np.isnan(candles.turnover).all()
    assert base_interval(candles) == "5"
