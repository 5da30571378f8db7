"""The range of bars of an ingest or a dataset, and the closed bars in it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from annotated_types import Gt, Lt

from storage.bounds import Checked
from storage.schema import DAY_MS, ConfigError, Instrument, Market, Title, Window, one_line, utc_text

_STEPS = 16  # the start of a moving range moves in steps of 1 / 16 of its length; below 16 days it moves freely


@dataclass(frozen=True, kw_only=True)
class BarRange(Checked):
    """A range of bars.

    Attributes:
        start: First bar, UTC; None for the first that exists.
        end: End of the range, UTC, exclusive; None for the last closed bar.
        days: Length in days up to the end, instead of a start. The range may be up to a sixteenth longer, because its
            start moves in steps of a sixteenth; so on most days a scheduled run has the same start and the same folds.
    """

    start: Annotated[datetime | None, Title("From")] = None
    end: Annotated[datetime | None, Title("Until")] = None
    days: Annotated[Annotated[float, Gt(0), Lt(100_000)] | None, Title("Only the last days")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.days is not None and self.start is not None:
            raise ConfigError(f"a range has a start or a number of days, had both: start={self.start} days={self.days}")
        if self.start_ms is not None and self.end_ms is not None and self.start_ms >= self.end_ms:
            start, end = utc_text(self.start_ms), utc_text(self.end_ms)
            raise ConfigError(f"start must be before end, was start={start} end={end}")

    @property
    def start_ms(self) -> int | None:
        """The start in UTC milliseconds; a time without zone is UTC."""
        return _utc_ms(self.start)

    @property
    def end_ms(self) -> int | None:
        """The end in UTC milliseconds; a time without zone is UTC."""
        return _utc_ms(self.end)

    @property
    def text(self) -> str:
        """The range in a few words, for the name of a run."""
        if self.days is not None:
            return f"last {self.days:g} days" + (f" to {self.end:%Y-%m-%d}" if self.end else "")
        start, end = (f"{moment:%Y-%m-%d}" if moment else "" for moment in (self.start, self.end))
        return f"from {start or 'the listing'} {f'to {end}' if end else 'on'}"

    def first_wanted_ms(self, end_ms: int) -> int:
        """Return the start of the range if it ends at `end_ms`, UTC milliseconds; 0 for the first bar that exists."""
        if self.days is None:
            return self.start_ms or 0
        first_ms = end_ms - int(self.days * DAY_MS)
        return first_ms - first_ms % max(int(self.days) // _STEPS * DAY_MS, 1)


def closed_span(market: Market, bars: BarRange, instrument: Instrument, now_ms: int) -> Window:
    """Return the bars of the range that have closed by `now_ms`; the instrument tells when trading began.

    Raises:
        ConfigError: The range starts before the listing, contains no closed bar, or its start is unknown.
    """
    if not instrument.launch_ms and bars.start_ms is None and bars.days is None:
        raise ConfigError(
            f"Bybit does not say when {market.symbol} {market.category} began; give its first day as start"
        )
    launch_ms = market.ceil(instrument.launch_ms)
    last_ms = market.floor(now_ms) - market.interval_ms
    if bars.end_ms is not None:
        last_ms = min(last_ms, market.ceil(bars.end_ms) - market.interval_ms)
    first_ms = market.ceil(bars.first_wanted_ms(last_ms + market.interval_ms))
    if bars.start_ms is None:
        first_ms = max(first_ms, launch_ms)
    if first_ms < launch_ms:
        raise ConfigError(
            f"start must not be before the listing, {market.symbol} was listed {utc_text(launch_ms)}, "
            f"start was {utc_text(first_ms)}; use start={utc_text(launch_ms)[:10]} or a later day, or leave it out"
        )
    if last_ms < first_ms:
        raise ConfigError(
            f"the range must hold a closed bar; {market.symbol} has them from {utc_text(launch_ms)} to "
            f"{utc_text(market.floor(now_ms))}, asked for {utc_text(first_ms)} to "
            f"{utc_text(last_ms + market.interval_ms)}"
        )
    return Window(first_ms=first_ms, last_ms=last_ms)


def refuse_end_of_market(market: Market, span: Window, instrument: Instrument, newest_ms: int | None) -> None:
    """Refuse a range that ends after the last candle, that of `newest_ms`, of a market that no longer trades.

    Raises:
        ConfigError: The range ends after the last candle, or there is no candle.
    """
    what = f"{market.symbol} {market.category} is not trading, its status is {one_line(instrument.status, 40)}"
    if newest_ms is None:
        raise ConfigError(f"{what}, and it has no candle of interval {market.interval}")
    end_ms = market.floor(newest_ms) + market.interval_ms
    if span.last_ms >= end_ms:
        raise ConfigError(f"{what}; its last candle opened {utc_text(newest_ms)}, use --end {utc_text(end_ms)}")


def _utc_ms(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
