"""The contracts of candles and features as pandera schemas, and the handling of rows that break them.

pandas and pandera take more than a second to import, so the functions that need them load them; importing this module
is cheap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.schema import (
    CANDLE_COLUMNS,
    FEATURES,
    CandleError,
    Candles,
    DatasetError,
    FloatArray,
    IntArray,
    Market,
    RejectedRow,
    utc_text,
)

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

# Every range has an upper bound, even if no market comes near it, since a check for "> 0" lets infinity pass.
_MAX_PRICE = 1e9
_MAX_VOLUME = 1e18  # bars of the cheapest coins come near 1e15
_MAX_TURNOVER = 1e18
_MAX_IN_VOL_UNITS = 1e7  # a bar of 10 % in a market that was flat (vol 1e-8) until then
_FEATURE_RANGES = {
    **dict.fromkeys(FEATURES, (-_MAX_IN_VOL_UNITS, _MAX_IN_VOL_UNITS)),
    "volatility": (-5.0, 5.0),
    "volume_ratio": (-5.0, 5.0),  # ln 20 at most, for a bar that has all the volume of its 20
    "rsi": (-0.5, 0.5),
    "range": (0.0, _MAX_IN_VOL_UNITS),
    "log_volume": (-5.0, 5.0),
    "vol_level": (-12.0, 12.0),  # ln(1e-8 / 0.001) is its floor
    **dict.fromkeys(("range_vol_12", "range_vol_100", "vol_2000", "volume_level"), (-5.0, 5.0)),
    **{name: (-1.0 - 1e-9, 1.0 + 1e-9) for name in FEATURES if name.startswith(("week_", "day_"))},
    "vol": (0.0, 10.0),
}
_REPORTED = 5  # most kinds of failure in an error text, which appears in a log line and in the UI
_RAW_LENGTH = 500
_ROWS_AT_ONCE = 1 << 14  # of features: pandera keeps several copies of what it checks, here 5 MB each


def candle_contract(market: Market, now_ms: int) -> pa.DataFrameSchema:
    """Return the schema of candles that have closed by `now_ms`: columns start_ms and `CANDLE_COLUMNS`."""
    import pandera.pandas as pa

    step, origin = market.interval_ms, market.floor(0)
    time_checks = [
        pa.Check(lambda start: (start - origin) % step == 0, error="on the interval grid"),
        pa.Check(lambda start: start <= now_ms - step, error="closed"),
        pa.Check(lambda start: ~start.duplicated(keep=False), error="one row a bar"),
    ]
    price = pa.Check.in_range(0, _MAX_PRICE, include_min=False, error=f"in (0, {_MAX_PRICE:g}]")
    volume = pa.Check.in_range(0, _MAX_VOLUME, error=f"in [0, {_MAX_VOLUME:g}]")
    turnover = pa.Check.in_range(0, _MAX_TURNOVER, error=f"in [0, {_MAX_TURNOVER:g}], or unknown")
    return pa.DataFrameSchema(
        {
            "start_ms": pa.Column(np.int64, time_checks),
            **{name: pa.Column(np.float64, price) for name in ("open", "high", "low", "close")},
            "volume": pa.Column(np.float64, volume),
            "turnover": pa.Column(np.float64, turnover, nullable=True),
        },
        checks=[  # written with "not", so that a NaN is reported by its column's check only
            pa.Check(
                lambda bar: ~(bar["high"] < bar[["open", "low", "close"]].max(axis=1)), error="high is the highest"
            ),
            pa.Check(lambda bar: ~(bar["low"] > bar[["open", "high", "close"]].min(axis=1)), error="low is the lowest"),
        ],
        strict=True,
    )


def feature_contract(interval_ms: int) -> pa.DataFrameSchema:
    """Return the schema of features: columns start_ms, `FEATURES` and vol; in a bar either all are NaN or none is."""
    import pandera.pandas as pa

    names = [*FEATURES, "vol"]
    time_checks = [
        pa.Check(lambda start: start.diff().fillna(interval_ms) > 0, error="strictly increasing"),
        pa.Check(lambda start: start.diff().fillna(interval_ms) % interval_ms == 0, error="on the interval grid"),
    ]
    ranges = {
        name: pa.Check.in_range(low, high, error=f"in [{low:g}, {high:g}]")
        for name, (low, high) in _FEATURE_RANGES.items()
    }
    return pa.DataFrameSchema(
        {
            "start_ms": pa.Column(np.int64, time_checks),
            **{name: pa.Column(np.float64, ranges[name], nullable=True) for name in names},
        },
        checks=pa.Check(lambda bar: bar[names].isna().sum(axis=1).isin([0, len(names)]), error="all known or none"),
        strict=True,
    )


def split_candles(candles: Candles, market: Market, *, now_ms: int) -> tuple[Candles, tuple[RejectedRow, ...]]:
    """Return the valid rows, oldest first, and the rejected ones with every check that they failed.

    The rows may come in any order, NaN and infinities included; `now_ms` is the exchange's time. Identical rows count
    once; different rows of the same bar are all rejected, since it is unknown which one is right.

    Raises:
        CandleError: A column has the wrong type.
    """
    import pandas as pd
    import pandera.pandas as pa

    names = ["start_ms", *CANDLE_COLUMNS]
    frame = pd.DataFrame({name: getattr(candles, name) for name in names})
    if np.any(np.diff(candles.start_ms) <= 0):
        frame = frame.drop_duplicates().sort_values(names, ignore_index=True)
        candles = Candles(**{name: frame[name].to_numpy(copy=True) for name in names})
    try:
        candle_contract(market, now_ms).validate(frame, lazy=True)
    except pa.errors.SchemaErrors as err:
        failures = _failures(err.failure_cases)
        if failures["row"].isna().any():
            texts = "; ".join(failures.loc[failures["row"].isna(), "check"])
            raise CandleError(f"{market}: candles must have int64 times and float64 values, failed: {texts}") from err
        reasons: dict[int, str] = {}
        for row, check in zip(failures["row"].astype(int), failures["check"], strict=True):
            reasons[row] = f"{reasons[row]}; {check}" if row in reasons else check
        kept = np.ones(len(candles), bool)
        kept[list(reasons)] = False
        return candles[kept], tuple(
            RejectedRow(start_ms=int(candles.start_ms[row]), raw=_raw(candles, row), reason=reason)
            for row, reason in reasons.items()
        )
    return candles, ()


def validate_features(values: FloatArray, vol: FloatArray, start_ms: IntArray, interval_ms: int) -> None:
    """Refuse features that break the contract; unlike a bad candle, a bad feature is a bug, so the run stops.

    Args:
        values: (T, F) in the order of `FEATURES`, NaN where not ready.
        vol: (T,) per-bar volatility, NaN where not ready.
        start_ms: (T,) open times, UTC milliseconds.
    Raises:
        DatasetError: A check failed; the text lists each kind of failure with its count and its first bar.
    """
    import pandas as pd
    import pandera.pandas as pa

    if values.shape != (len(start_ms), len(FEATURES)) or vol.shape != start_ms.shape:
        raise DatasetError(
            f"features must be ({len(start_ms)}, {len(FEATURES)}) with ({len(start_ms)},) vol, "
            f"were {values.shape} with {vol.shape}"
        )
    contract, broken = feature_contract(interval_ms), dict[str, _Broken]()
    for first in range(0, len(start_ms), _ROWS_AT_ONCE):
        before = min(first, 1)  # the checks of times also need the row before
        rows = slice(first - before, first + _ROWS_AT_ONCE)
        frame = pd.DataFrame(values[rows], columns=list(FEATURES))
        frame.insert(0, "start_ms", start_ms[rows])
        frame["vol"] = vol[rows]
        try:
            contract.validate(frame, lazy=True)
        except pa.errors.SchemaErrors as err:
            failures = _failures(err.failure_cases)
            for check, group in failures[~(failures["row"].astype(float) < before)].groupby("check"):
                known = broken.setdefault(str(check), _Broken(_first_failure(group.iloc[0], frame)))
                known.bars += len(group)
    if broken:
        raise DatasetError(f"features break the contract: {_feature_report(broken, len(start_ms))}")


def _failures(cases: pd.DataFrame) -> pd.DataFrame:
    """Return pandera's failure cases as columns row, check and column: one per row and check, in a fixed order.

    pandera reports a check on the whole frame once for each cell of a bad row; `row` is None if the failure is of a
    whole column.
    """
    of_column = cases["schema_context"] == "Column"
    check = cases["check"].astype(str).replace("not_nullable", "not NaN")
    check = check.where(~of_column, cases["column"].astype(str) + ": " + check)
    failures = cases.assign(row=cases["index"], check=check, column=cases["column"].where(of_column))
    return failures[["row", "check", "column"]].drop_duplicates(["row", "check"]).sort_values(["row", "check"])


@dataclass
class _Broken:
    """A failed check: its first bar in words (empty if the whole column is wrong), and the number of failing bars."""

    first: str
    bars: int = 0


def _first_failure(failure: Any, frame: pd.DataFrame) -> str:
    if failure["row"] is None or np.isnan(failure["row"]):  # the column as a whole
        return ""
    bar = frame.iloc[int(failure["row"])]
    value = f" was {bar[failure['column']]:g}" if failure["column"] in _FEATURE_RANGES else ""
    return f"the first{value} at {utc_text(int(frame['start_ms'].iloc[int(failure['row'])]))}"


def _feature_report(broken: Mapping[str, _Broken], bars: int) -> str:
    kinds = [
        f"{check}, not so in {found.bars} of {bars} bars, {found.first}" if found.first else check
        for check, found in sorted(broken.items())
    ]
    more = [f"and {len(kinds) - _REPORTED} more kinds"] if len(kinds) > _REPORTED else []
    return "; ".join(kinds[:_REPORTED] + more)


def _raw(candles: Candles, row: int) -> str:
    values = [int(candles.start_ms[row]), *(float(getattr(candles, name)[row]) for name in CANDLE_COLUMNS)]
    return json.dumps(values)[:_RAW_LENGTH]
