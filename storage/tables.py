"""Columns as Parquet bytes and back."""

import io
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.foreign import ParquetTable

_NUMBERS = ("double", "float", "int64", "int32", "int16", "int8", "uint8", "bool")


def parquet_bytes(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Return named columns of one length as a Parquet file; the same columns give the same bytes."""
    file = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(column) for name, column in columns.items()}), file, compression="zstd")
    return file.getvalue()


def read_columns(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the columns of a Parquet file by name; all must be numeric. Nulls become NaN.

    Raises:
        DamagedError: It is not Parquet, or a column is not numeric.
    """
    table = ParquetTable(content)
    return {name: table.numbers(name, *_NUMBERS) for name in table.types}
