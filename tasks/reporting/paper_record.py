"""What paper sessions came to, for whoever looks at many: one record a market, taken from each session's journal."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.schema import Market, Source, one_line, parse_source
from storage.written import DASH, Row, written
from tasks.execution.metrics import DAYS_PER_YEAR, daily_returns, sharpe_ratio, total_return
from tasks.execution.track_record import FEWEST_TRADES
from tasks.journal.journal_reader import JournalReader

log = logging.getLogger(__name__)

_FEWEST_DAYS = 20  # fewer, and one day makes a Sharpe ratio of anything


@dataclass(frozen=True, kw_only=True)
class PaperRecord:
    """One market of one session.

    Attributes:
        version: The version that decided last; empty for none.
        bars: Decisions.
        net_return: After costs, share of the capital.
        sharpe_ratio: From UTC days, annualised with sqrt(365); None for too few days or trades.
        backtest_return: A backtest's of the same candles; None until the session has ended, as the next two.
        unexplained: Differences from it that have no cause.
    """

    session: str
    source: Source
    market: Market
    version: str
    bars: int
    fills: int
    net_return: float
    sharpe_ratio: float | None
    backtest_return: float | None
    equal_decisions: int | None
    unexplained: int | None

    def row(self) -> Row:
        """Return it as a line of a table."""
        ended = self.unexplained is not None
        return {
            "session": self.session,
            "version": self.version or "none",
            "bars": self.bars,
            "fills": self.fills,
            "net return": written(self.net_return, "signed share"),
            "backtest's": DASH if self.backtest_return is None else written(self.backtest_return, "signed share"),
            "Sharpe ratio": "too few" if self.sharpe_ratio is None else written(self.sharpe_ratio, "ratio"),
            "equal decisions": f"{self.equal_decisions:,} of {self.bars:,}" if ended else "it has not ended",
            "unexplained": DASH if self.unexplained is None else f"{self.unexplained:,}",
        }

    def line(self) -> str:
        """Return it in one line."""
        session, *facts = self.row().items()
        return f"{session[1]}: {', '.join(f'{name} {value}' for name, value in facts)}"

    @property
    def breaches(self) -> dict[str, str]:
        """What needs a person: kind -> what was found."""
        if not self.unexplained:
            return {}
        said = f"paper session {self.session} differs from the backtest {self.unexplained} times without a cause"
        return {"paper": f"{said}; evaluate --session {self.session} says where"}


def paper_records(home: Path, source: Source, market: Market, most: int = 1) -> list[PaperRecord]:
    """Return the newest paper sessions of a market, newest first; a journal that can't be read is left out."""
    found: list[PaperRecord] = []
    paths = sorted((home / "sessions").glob("*.sqlite"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in paths:
        try:
            with JournalReader.of(path) as reader:
                found += [one for one in _records(path.stem, reader) if (one.source, one.market) == (source, market)]
        except Exception as err:  # whatever stands in it, the others are read
            log.warning("the session %s is left out (%s: %s)", path, type(err).__name__, one_line(err))
            continue
        if len(found) >= most:
            break
    return found[:most]


def _records(session: str, reader: JournalReader) -> Iterator[PaperRecord]:
    facts = reader.facts()
    if facts.get("mode") != "paper":
        return
    summed = {one["slug"]: one for one in facts.get("summary", {}).get("markets", [])}
    for slug in reader.markets():
        market, (last, *_) = Market.of_slug(slug), [*reader.decisions(slug, last=1), None]
        if last is None:
            continue
        start_ms, equity = reader.equity(market, slug)
        daily = daily_returns(equity, start_ms)
        proven = reader.round_trips(slug) >= FEWEST_TRADES and len(daily) >= _FEWEST_DAYS
        ended = summed.get(slug)
        if ended is not None and ended["bars"] != len(start_ms):
            ended = None  # it has been gone on with
        yield PaperRecord(
            session=session,
            source=parse_source(facts["source"]),
            market=market,
            version=last.version,
            bars=len(start_ms),
            fills=len(reader.fills(slug)),
            net_return=ended["equity"] / ended["capital"] - 1.0 if ended else total_return(equity),
            sharpe_ratio=sharpe_ratio(daily, DAYS_PER_YEAR) if proven else None,
            backtest_return=ended["backtest_equity"] / ended["capital"] - 1.0 if ended else None,
            equal_decisions=ended["equal_decisions"] if ended else None,
            unexplained=ended["unexplained"] if ended else None,
        )
