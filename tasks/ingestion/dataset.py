"""Builds an immutable dataset from stored candles."""

from pathlib import Path

from storage.authorship import Where
from storage.candles import CandleStore
from storage.contracts import validate_features
from storage.schema import Candles, DatasetError, DatasetRef, Market, Source, Window, content_hash
from storage.snapshots import Dataset, write_dataset
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.quality import QualityConfig, refuse_bad_data
from tasks.market import features
from tasks.market.features import Features

_FORMULAS = content_hash([Path(features.__file__).read_bytes()])  # read at import: the file may change later


def make_dataset(
    store: CandleStore,
    datasets: Where,
    source: Source,
    market: Market,
    bars: BarRange,
    quality: QualityConfig,
) -> tuple[DatasetRef, Features]:
    """Store the candles of a range with their features as an immutable dataset; return its reference and the features.

    Raises:
        DatasetError: The store has no such candles, or too few to warm up the features.
        QuarantineError: Too many bars of the range are missing because their rows were rejected.
        CandleGapError: Too many bars are missing for any reason.
    """
    candles = _stored(store, source, market, bars)
    if len(candles) <= features.WARM_UP:
        raise DatasetError(
            f"a dataset needs more than {features.WARM_UP:,} bars to warm its features up, {market} from {source} has "
            f"{len(candles):,} stored; ingest more history or use a shorter interval"
        )
    span = Window(first_ms=int(candles.start_ms[0]), last_ms=int(candles.start_ms[-1]))
    refuse_bad_data(store, source, market, span, quality)
    built = features.build_features(candles.matrix(), market.interval_ms)
    validate_features(built.values, built.vol, candles.start_ms, market.interval_ms)
    stamps_ms, rates = store.read_funding(source, market)
    inside = (stamps_ms >= span.first_ms) & (stamps_ms <= span.last_ms)
    dataset = Dataset(
        source=source,
        market=market,
        candles=candles,
        features=built.values,
        vol=built.vol,
        segment=built.segment,
        funding_ms=stamps_ms[inside],
        funding_rate=rates[inside],
        code_hash=_FORMULAS,
    )
    return write_dataset(datasets, dataset), built


def stored_markets(store: CandleStore, source: Source, like: Market) -> tuple[Market, ...]:
    """Return every market with stored candles of the category and interval of `like`, sorted by symbol.

    Delisted ones are included to avoid survivorship bias.
    """
    found = [row.market for row in store.coverage() if row.source == source and row.bars]
    same = [one for one in found if (one.category, one.interval) == (like.category, like.interval)]
    return tuple(sorted(same, key=lambda one: one.symbol))


def _stored(store: CandleStore, source: Source, market: Market, bars: BarRange) -> Candles:
    candles = store.read(source, market, bars.start_ms, None if bars.end_ms is None else bars.end_ms - 1)
    if bars.days is None or not len(candles):
        return candles
    return candles[candles.start_ms >= bars.first_wanted_ms(int(candles.start_ms[-1]) + market.interval_ms)]
