"""Candles of a test as a stored dataset."""

from pathlib import Path

import numpy as np

from storage.schema import Candles, DatasetRef, FloatArray, Market, Source
from storage.snapshots import Dataset, write_dataset
from tasks.market.features import build_features


def stored(datasets: Path, candles: FloatArray, symbol: str = "BTCUSDT") -> DatasetRef:
    """Store (T, 6) candles of five minutes, as `Candles.matrix` gives them, and return the dataset's name."""
    market = Market(symbol=symbol)
    built = build_features(candles, market.interval_ms)
    columns = dict(zip(("open", "high", "low", "close", "volume"), candles[:, 1:].T, strict=True))
    columns["turnover"] = columns["volume"] * columns["close"]
    dataset = Dataset(
        source=Source("bybit"), market=market, candles=Candles(start_ms=candles[:, 0].astype(np.int64), **columns),
        features=built.values, vol=built.vol, segment=built.segment, funding_ms=np.zeros(0, np.int64),
        funding_rate=np.zeros(0), code_hash="0",
    )  # fmt: skip
    return write_dataset(datasets, dataset)
