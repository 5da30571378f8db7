"""What somebody else may have written is believed only as far as it is there."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.foreign import MOST_ROWS, Archive, ParquetTable, parse_json, read_arrays, read_file
from storage.schema import DamagedError, PipelineError, one_line

pytestmark = pytest.mark.promise(19)


def parquet(columns: Mapping[str, object]) -> bytes:
    packed = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), packed)
    return packed.getvalue()


def archive(method: int = zipfile.ZIP_STORED, **files: bytes) -> io.BytesIO:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return packed


def test_damage_is_an_error_of_ours_and_a_value_error():
    assert issubclass(DamagedError, PipelineError)
    assert issubclass(DamagedError, ValueError)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5_000, b"\xff", b"", b"{", "nul"])
def test_text_that_is_no_json_is_damage(text):
    with pytest.raises(DamagedError, match="no JSON"):
        parse_json(text)


def test_regular_file_is_read_and_nothing_else_is(tmp_path):
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    file.write_bytes(b"12345")
    link.symlink_to(file)
    os.mkfifo(pipe)
    assert read_file(file, 5) == read_file(link) == b"12345"
    for place in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(DamagedError, match="must be a regular file"):
            read_file(place)
    with pytest.raises(DamagedError, match="must have at most 4 bytes"):
        read_file(file, 4)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "nowhere")
    with pytest.raises(DamagedError, match="no name of a file"):
        read_file(tmp_path / "a\x00b")


def test_reading_reserves_what_the_file_has_and_not_what_it_might_have(tmp_path):
    (file := tmp_path / "file").write_bytes(b"12345")
    tracemalloc.start()
    try:
        assert read_file(file, 1 << 30) == b"12345"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        os.truncate(file, 1 << 26)  # more than it may have is not read, only to be refused
        with pytest.raises(DamagedError, match="must have at most 1,000 bytes"):
            read_file(file, 1_000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_has_grown_since_it_was_asked_for_its_size_is_read_to_its_end():
    grown = Path("/proc/version")  # its size is said to be 0
    assert read_file(grown) == grown.read_bytes() != b""
    with pytest.raises(DamagedError, match="must have at most 5 bytes"):
        read_file(grown, 5)


def test_archive_is_read_whole_or_in_part():
    files = {"a": b"1", "b": bytes(range(100))}
    packed = Archive(archive(**files))
    assert dict(packed) == files
    with packed.open("b") as part:
        assert (part.seek(-10, io.SEEK_END), part.read()) == (90, files["b"][90:])
        assert (part.seek(5), part.read(3), part.read(), part.read()) == (5, b"\x05\x06\x07", files["b"][8:], b"")
        assert packed["a"] == b"1"  # in between
        assert (part.seek(0), part.read()) == (0, files["b"])
    with pytest.raises(KeyError):
        packed.open("c")


def test_file_of_an_archive_that_says_it_is_elsewhere_is_damage():
    packed = archive(a=b"1", b=b"2").getvalue()
    with pytest.raises(DamagedError, match="no archive"):
        Archive(io.BytesIO(packed.replace(b"PK\x03\x04", b"PK\x03\x05"))).open("a")
    with pytest.raises(DamagedError, match="more than it has bytes"):  # after its name, 65,535 bytes of something
        Archive(io.BytesIO(packed.replace(b"\x01\x00\x00\x00a", b"\x01\x00\xff\xffa"))).open("a")


def test_archive_that_unpacks_to_more_than_it_is_is_damage():
    with pytest.raises(DamagedError, match="more than it has bytes"):
        Archive(archive(zipfile.ZIP_DEFLATED, a=bytes(1_000_000)))
    with pytest.raises(DamagedError, match="its files are compressed"):
        Archive(archive(zipfile.ZIP_DEFLATED, a=os.urandom(1_000)))
    with pytest.raises(DamagedError, match="no archive"):
        Archive(io.BytesIO(b"PK\x03\x04" + bytes(100)))


def test_arrays_are_numbers_and_as_long_as_they_say():
    packed = io.BytesIO()
    np.savez(packed, a=np.arange(6.0).reshape(2, 3), b=np.asfortranarray(np.arange(6).reshape(2, 3)))
    found = read_arrays(packed.getvalue())
    np.testing.assert_array_equal(found["a"], [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    np.testing.assert_array_equal(found["b"], [[0, 1, 2], [3, 4, 5]])
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    objects = io.BytesIO()
    np.savez(objects, a=np.array([{}], object))
    for content in (archive(a=header.getvalue()).getvalue(), objects.getvalue()):
        with pytest.raises(DamagedError, match="must hold as many numbers as it says"):
            read_arrays(content)
    with pytest.raises(DamagedError, match="no array"):
        read_arrays(archive(a=b"nothing").getvalue())


def test_table_says_its_types_and_gives_numbers_and_moments():
    table = ParquetTable(parquet({"t": [1, 2, 5], "x": [0.5, None, 1.0]}))
    assert (table.rows, {name: str(kind) for name, kind in table.types.items()}) == (3, {"t": "int64", "x": "double"})
    assert table.moments("t").tolist() == [1, 2, 5]
    np.testing.assert_array_equal(table.numbers("x", "double"), [0.5, np.nan, 1.0])
    with pytest.raises(DamagedError, match="column x must be int64, was double"):
        table.numbers("x", "int64")
    with pytest.raises(DamagedError, match="column y must be double, was missing"):
        table.numbers("y", "double")


@pytest.mark.parametrize("times", [[1, 1], [2, 1], [-1, 5], [1, 2**62]])
def test_moments_lie_within_the_calendar_and_follow_each_other(times):
    with pytest.raises(DamagedError, match="column t must be UTC milliseconds, each later than the one before"):
        ParquetTable(parquet({"t": times})).moments("t")


def test_table_of_more_rows_than_may_be_is_refused_before_one_is_read():
    with pytest.raises(DamagedError, match=r"at most 2 rows and 1000 columns, this one says 3 and 1"):
        ParquetTable(parquet({"t": [1, 2, 3]}), 2)
    bomb = parquet({"t": pa.array(np.zeros(MOST_ROWS + 1, np.int8))})  # every row is in it, in some kilobytes
    assert len(bomb) < 100_000
    with pytest.raises(DamagedError, match="this one says 5,000,001"):
        ParquetTable(bomb)


def test_text_that_is_in_a_table_once_and_unpacks_to_gigabytes_is_refused():
    bomb = parquet({"t": pa.DictionaryArray.from_arrays(np.zeros(1_000_000, np.int32), ["x" * 10_000])})
    with pytest.raises(DamagedError, match="a text has more than 100 characters"):
        ParquetTable(bomb).column("t")
    assert ParquetTable(parquet({"t": ["1.5", None]})).column("t").to_pylist() == ["1.5", None]


def test_column_of_lists_and_columns_of_one_name_are_refused():
    with pytest.raises(DamagedError, match="column t must hold one value a row"):
        ParquetTable(parquet({"t": [[1.0], [2.0]]})).column("t")
    packed = io.BytesIO()
    pq.write_table(pa.table([[1], [2]], names=["t", "t"]), packed)
    with pytest.raises(DamagedError, match="each column once, this one has t twice"):
        ParquetTable(packed.getvalue())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\r\n\tc", "a b c"),
        ("\x1b[2J\x07done\x00", "[2J done"),
        ("abc\u202etxt.exe", "abc txt.exe"),
        ("s3://KEY:SECRET@bucket/x", "s3://...@bucket/x"),
        ("no https://h/p?token=abc#x here", "no https://h/p?... here"),
        ("x" * 300, "x" * 200),
        ("a@b is no address, why?", "a@b is no address, why?"),
    ],
)
def test_what_others_wrote_is_one_plain_line_without_a_key(text, line):
    assert one_line(text) == line
