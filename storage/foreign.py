"""What somebody else may have written, read within bounds: files, JSON, Parquet, zip archives, arrays.

A shared bucket, a downloaded file and a damaged disk are alike: no size, type or count that bytes state of themselves
is believed before it has been compared with what is there. Whatever is wrong is a `DamagedError`, which is a ValueError
too, so that whoever has a better word for it catches that.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storage.schema import END_OF_TIME_MS, DamagedError, PipelineError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

MOST_BYTES = 1 << 28
"""Of a file, unless its reader says otherwise: a version's largest is some megabytes."""
MOST_DATA_BYTES = 1 << 31
"""Of a dataset, and of a file of candles."""
MOST_ROWS = 5_000_000
"""Of a table: nine years of minutes."""

OTHERWISE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What a reader trips over where a document is not as it was written."""

_MOST_JSON = 1 << 26
_MOST_MEMBERS = 1_000  # of an archive
_MOST_COLUMNS = 1_000
_MOST_TEXT = 100  # characters of a text in a table of numbers


def open_file(path: Path) -> IO[bytes]:
    """Open a regular file for reading, through links too; a pipe or a device might never end.

    Raises:
        OSError: It is not there, or may not be read.
        DamagedError: It is no regular file.
    """
    with refusing("no name of a file", ValueError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedError(f"{one_line(path, 1_000)} must be a regular file")
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: It is not there, or may not be read.
        DamagedError: It is no regular file, or holds more than `most` bytes.
    """
    with open_file(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise DamagedError(f"{one_line(path, 1_000)} must have at most {most:,} bytes")
    return content


def parse_json(content: bytes | str) -> Any:
    """Return what JSON text says.

    Raises:
        DamagedError: It is none, too long, or nested too deeply.
    """
    if len(content) > _MOST_JSON:
        raise DamagedError(f"JSON must have at most {_MOST_JSON:,} bytes, was {len(content):,}")
    with refusing("no JSON", ValueError, RecursionError):
        return json.loads(content)


def unzip(packed: IO[bytes], only: str | None = None) -> dict[str, bytes]:
    """Return the files of an archive, or one of them. It holds them as they are: nothing unpacks to more than it was.

    Raises:
        DamagedError: It is no such archive.
    """
    with (
        # What `zipfile` makes of bytes that are none: an encrypted member, an unknown method, a place outside ...
        refusing("no archive", zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, OverflowError),
        zipfile.ZipFile(packed) as archive,
    ):
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS or sum(one.file_size for one in members) > packed.seek(0, io.SEEK_END):
            raise DamagedError("it says that it holds more than it has bytes")
        if any(one.compress_type != zipfile.ZIP_STORED for one in members):
            raise DamagedError("its files are compressed")
        return {one.filename: archive.read(one) for one in members if only in (None, one.filename)}


def read_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays that `numpy.savez` wrote, by name.

    Raises:
        DamagedError: There are none, one holds objects, or is not as long as it says.
    """
    return {name.removesuffix(".npy"): _array(member) for name, member in unzip(io.BytesIO(content)).items()}


def _array(content: bytes) -> NDArray[Any]:
    file = io.BytesIO(content)
    with refusing("no array", ValueError, OSError, TypeError, SyntaxError, RecursionError):
        if np.lib.format.read_magic(file) != (1, 0):  # as savez writes what has a short header
            raise DamagedError("its version is unknown")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
            raise DamagedError("it must hold as many numbers as it says")
        flat = np.frombuffer(content, dtype, offset=file.tell()).copy()
        return flat.reshape(shape, order="F" if is_fortran else "C")


class ParquetTable:
    """A Parquet file of which nothing but the schema has been read; each column is read when it is asked for.

    Args:
        content: The file.
        most_rows: Most rows.

    Raises:
        DamagedError: It is no Parquet, too large, or has two columns of one name; reading a column may raise it too.

    Attributes:
        rows: How many it has.
        types: Column name -> Arrow's type.
        metadata: What its writer noted beside the columns.
    """

    def __init__(self, content: bytes, most_rows: int = MOST_ROWS) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with refusing("no Parquet", pa.ArrowException, OSError, ValueError, OverflowError):
            self._content = content
            self._file = pq.ParquetFile(io.BytesIO(content))
            found = self._file.metadata
            self.rows: int = found.num_rows
            counted = sum(found.row_group(place).num_rows for place in range(found.num_row_groups))
            if not self.rows == counted <= most_rows or found.num_columns > _MOST_COLUMNS:
                raise DamagedError(
                    f"a table has at most {most_rows:,} rows and {_MOST_COLUMNS} columns, this one says {self.rows:,} "
                    f"and {found.num_columns}"
                )
            schema = self._file.schema_arrow
            self.types: dict[str, pa.DataType] = {field.name: field.type for field in schema}
            self.metadata: dict[bytes, bytes] = schema.metadata or {}
        if len(self.types) != len(schema):
            twice = " and ".join(sorted({name for name in schema.names if schema.names.count(name) > 1}))
            raise DamagedError(f"a table must have each column once, this one has {one_line(twice)} twice")

    def numbers(self, name: str, *kinds: str) -> NDArray[Any]:
        """Return a column that must be there and of one of these types, such as int64 or double; nulls become NaN."""
        if (found := str(self.types.get(name, "missing"))) not in kinds:
            raise DamagedError(f"column {one_line(name, 40)} must be {' or '.join(kinds)}, was {one_line(found, 40)}")
        # A copy, since Arrow's own memory is read-only, for which Numba would compile everything a second time.
        return np.array(self.column(name).to_numpy())

    def moments(self, name: str) -> NDArray[np.int64]:
        """Return a column of times, UTC milliseconds: whole, within the calendar and strictly increasing."""
        times = self.numbers(name, "int64")
        if len(times) and (times[0] < 0 or times[-1] > END_OF_TIME_MS or (times[1:] <= times[:-1]).any()):
            raise DamagedError(f"column {name} must be UTC milliseconds, each later than the one before")
        return times

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column as Arrow holds it."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        kind = self.types[name]
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_nested(kind):
            raise DamagedError(f"column {one_line(name, 40)} must hold one value a row, was {one_line(kind, 40)}")
        with refusing(f"column {one_line(name, 40)} can't be read", pa.ArrowException, OSError, ValueError):
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                column = self._file.read(columns=[name], use_threads=False).column(0)
            else:  # a text that repeats is in the file once, and may be a million times as long in memory
                file = pq.ParquetFile(io.BytesIO(self._content), read_dictionary=[name])
                packed = file.read(columns=[name], use_threads=False).column(0).unify_dictionaries()
                if any((pc.max(pc.binary_length(one.dictionary)).as_py() or 0) > _MOST_TEXT for one in packed.chunks):
                    raise DamagedError(f"a text has more than {_MOST_TEXT} characters")
                column = pc.cast(packed, kind)
            column.validate()
        if len(column) != self.rows:
            raise DamagedError(f"column {name} must have {self.rows:,} rows, was {len(column):,}")
        return column


@contextmanager
def refusing(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn these errors, which say that bytes are not what they should be, into one of ours; ours pass.

    Raises:
        DamagedError: `what`, and how the error puts it.
    """
    try:
        yield
    except PipelineError:
        raise
    except kinds as err:
        raise DamagedError(f"{what} ({type(err).__name__}: {one_line(err)})") from err
