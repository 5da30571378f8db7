"""Bounded readers for untrusted data: files, JSON, Parquet, zip archives, arrays.

Data from a shared bucket, a download or a damaged disk is treated alike: a size, type or count in a header is compared
with the actual bytes before it is used. Every fault raises `DamagedError`, which is also a ValueError, so that callers
can replace it by a more specific error.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from storage.schema import END_OF_TIME_MS, DamagedError, PipelineError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

MOST_BYTES = 1 << 28
"""Most bytes of a file by default; the largest of a version has some megabytes."""
MOST_DATA_BYTES = 1 << 31
"""Most bytes of a dataset or of a file of candles."""
MOST_ROWS = 5_000_000
"""Most rows of a table: nine years of minutes."""

OTHERWISE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""Errors that reading a malformed document raises."""

_MOST_JSON = 1 << 26
_MOST_MEMBERS = 1_000  # of an archive
_MEMBER_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field: APPNOTE.TXT, 4.3.7
_MOST_COLUMNS = 1_000
_MOST_TEXT = 100  # characters of a text in a table of numbers


def open_file(path: Path, most: int | None = None) -> IO[bytes]:
    """Open a regular file for reading, through links too; not a pipe or a device, which might never end.

    Raises:
        OSError: It does not exist or may not be read.
        DamagedError: It is not a regular file, or has more than `most` bytes.
    """
    with refusing("no name of a file", ValueError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or (most is not None and found.st_size > most):
        os.close(descriptor)
        must = f"have at most {most:,} bytes" if stat.S_ISREG(found.st_mode) else "be a regular file"
        raise DamagedError(f"{one_line(path, 1_000)} must {must}")
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: It does not exist or may not be read.
        DamagedError: It is not a regular file, or has more than `most` bytes.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, most) + 1)  # as many as asked for are reserved: of `most`, two gigabytes
        if len(content) > size:  # it grew meanwhile
            content += file.read(most + 1 - len(content))
    if len(content) > most:
        raise DamagedError(f"{one_line(path, 1_000)} must have at most {most:,} bytes")
    return content


def parse_json(content: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        DamagedError: It is not JSON, too long, or nested too deeply.
    """
    if len(content) > _MOST_JSON:
        raise DamagedError(f"JSON must have at most {_MOST_JSON:,} bytes, was {len(content):,}")
    with refusing("no JSON", ValueError, RecursionError):
        return json.loads(content)


class Archive(Mapping[str, bytes]):
    """The files of an uncompressed zip archive by name, each read on access, for which the archive must stay open.

    Compressed archives are refused, so that nothing unpacks to more than its size in the file.

    Raises:
        DamagedError: It is not such an archive; reading a file may raise it too.
    """

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        with self._refusing():
            self._archive = zipfile.ZipFile(packed)
            members = self._archive.infolist()
            if len(members) > _MOST_MEMBERS or sum(one.file_size for one in members) > packed.seek(0, io.SEEK_END):
                raise DamagedError("it says that it holds more than it has bytes")
            if any(one.compress_type != zipfile.ZIP_STORED for one in members):
                raise DamagedError("its files are compressed")
        self._members = {one.filename: one for one in members}

    def __getitem__(self, name: str) -> bytes:
        member = self._members[name]
        with self._refusing():
            return self._archive.read(member)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def open(self, name: str) -> IO[bytes]:
        """Return a file as a seekable stream, for files too large to be read into memory at once."""
        member = self._members[name]
        with self._refusing():
            self._archive.open(member).close()  # looks at its header
            self._packed.seek(member.header_offset)
            _, of_name, of_extra = _MEMBER_HEADER.unpack(self._packed.read(_MEMBER_HEADER.size))
            first = member.header_offset + _MEMBER_HEADER.size + of_name + of_extra
            if first + member.file_size > self._packed.seek(0, io.SEEK_END):
                raise DamagedError("it says that it holds more than it has bytes")
        return io.BufferedReader(_Part(self._packed, first, member.file_size))

    @staticmethod
    def _refusing() -> AbstractContextManager[None]:
        # What `zipfile` raises for malformed archives: an encrypted member, an unknown method, a bad offset ...
        return refusing("no archive", zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, OverflowError)


class _Part(io.RawIOBase):
    """A range of bytes of a file, as a file of its own."""

    def __init__(self, file: IO[bytes], first: int, size: int) -> None:
        self._file, self._first, self._size, self._at = file, first, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence], 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._first + self._at)
        part = self._file.read(min(len(buffer), max(self._size - self._at, 0)))
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def read_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays that `numpy.savez` wrote, by name.

    Raises:
        DamagedError: It is not such an archive, or an array holds objects or is not as long as its header says.
    """
    return {name.removesuffix(".npy"): _array(member) for name, member in Archive(io.BytesIO(content)).items()}


def _array(content: bytes) -> NDArray[Any]:
    file = io.BytesIO(content)
    with refusing("no array", ValueError, OSError, TypeError, SyntaxError, RecursionError):
        if np.lib.format.read_magic(file) != (1, 0):  # the version that savez writes for short headers
            raise DamagedError("its version is unknown")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
            raise DamagedError("it must hold as many numbers as it says")
        flat = np.frombuffer(content, dtype, offset=file.tell()).copy()
        return flat.reshape(shape, order="F" if is_fortran else "C")


class ParquetTable:
    """A Parquet file of at most `most_rows` rows; the schema is read at first, each column on access.

    Raises:
        DamagedError: It is not Parquet, too large, or has two columns of one name; reading a column may raise it too.

    Attributes:
        types: Column name -> Arrow type.
    """

    def __init__(self, content: bytes | IO[bytes], most_rows: int = MOST_ROWS) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with refusing("no Parquet", pa.ArrowException, OSError, ValueError, OverflowError):
            self._content = io.BytesIO(content) if isinstance(content, bytes) else content
            self._file = pq.ParquetFile(self._content)
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
        """Return a column; it must exist and have one of these types, such as int64 or double. Nulls become NaN."""
        if (found := str(self.types.get(name, "missing"))) not in kinds:
            raise DamagedError(f"column {one_line(name, 40)} must be {' or '.join(kinds)}, was {one_line(found, 40)}")
        # A copy, since Arrow's memory is read-only, and Numba would compile everything again for read-only arrays.
        return np.array(self.column(name).to_numpy())

    def moments(self, name: str) -> NDArray[np.int64]:
        """Return a column of times, UTC milliseconds; must be int64, within the calendar and strictly increasing."""
        times = self.numbers(name, "int64")
        if len(times) and (times[0] < 0 or times[-1] > END_OF_TIME_MS or (times[1:] <= times[:-1]).any()):
            raise DamagedError(f"column {name} must be UTC milliseconds, each later than the one before")
        return times

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column as an Arrow array."""
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
            else:  # a repeated text is stored once in the file, but could take a million times its size in memory
                file = pq.ParquetFile(self._content, read_dictionary=[name])
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
    """Turn errors of these kinds into DamagedError; errors of this project pass unchanged.

    Raises:
        DamagedError: The text is `what` and the error's own text.
    """
    try:
        yield
    except PipelineError:
        raise
    except kinds as err:
        raise DamagedError(f"{what} ({type(err).__name__}: {one_line(err)})") from err
