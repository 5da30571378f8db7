"""Columns as Parquet bytes and back."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray


def parquet_bytes(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Return named columns of one length as a Parquet file; the same columns give the same bytes."""
    file = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(column) for name, column in columns.items()}), file, compression="zstd")
    return file.getvalue()


def read_columns(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the columns of a Parquet file by name; nulls become NaN."""
    table = pq.read_table(io.BytesIO(content))
    return {name: np.asarray(table[name].to_numpy()) for name in table.column_names}
