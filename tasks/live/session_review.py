"""Sessions replayed: one that ends, for its summary, or any by its name, beside what the exchange says today."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from storage.artifacts import ArtifactStore
from storage.schema import Instrument, Market, PipelineError, StoreError, VersionRef
from storage.settings import Settings
from storage.written import Row
from tasks.champion.serving import load_served
from tasks.exchange.connection import ExchangeConfig, connect
from tasks.exchange.gateway import Gateway
from tasks.journal.journal_reader import JournalReader
from tasks.journal.journal_rows import Cause
from tasks.live.account_record import PredictHistory
from tasks.live.outcome import rounding_lines
from tasks.live.rest_feed import RestFeed
from tasks.live.session_plan import session_path
from tasks.live.session_replay import Replayed, replay


@dataclass(frozen=True, kw_only=True)
class SessionReview:
    """A session that was replayed after its end, or while it runs.

    Attributes:
        accounts: What came of replaying each, by its name in the journal.
    """

    name: str
    source: str
    accounts: Mapping[str, Replayed]

    @property
    def unexplained(self) -> int:
        """Differences from the backtest that have no cause."""
        return sum(one.unexplained for one in self.accounts.values())

    def rows(self) -> Iterator[Row]:
        """Yield what each account and its backtest came to, and what each cause made of the difference."""
        for account, one in self.accounts.items():
            if one.comparison is None:
                continue
            found, counts = one.comparison, one.causes | {"unexplained": one.unexplained, Cause.GAP: one.missing}
            paper, backtest = (1e4 * (worth / found.capital - 1.0) for worth in (found.paper, found.backtest))
            yield _row(f"{account}, {'by orders' if one.by_orders else 'on paper'}", f"{one.fills} fills", paper)
            yield _row("a backtest of its candles", f"{one.backtest_fills} fills", backtest)
            yield _row("decisions that are equal", f"{one.equal_decisions} of {one.bars}")
            for cause, part in found.parts.items():
                yield _row(f"- {cause}", str(counts.get(cause, "")), part)
            yield _row("difference, all together", "", found.difference_bp)

    def text(self) -> str:
        """Return it for a terminal."""
        rows = [[str(cell) for cell in row.values()] for row in self.rows()]
        wide = max((len(what) for what, _, _ in rows), default=0)
        lines = [f"  {what:<{wide}}  {times:>12}  {bp:>12}" for what, times, bp in rows]
        lines += [
            f"  rounding of {account}: {line}"
            for account, one in self.accounts.items()
            if one.comparison is not None
            for line in rounding_lines(one.comparison.parts, one.fills)
        ]
        return "\n".join([f"session {self.name} on {self.source}, basis points of the capital", *lines])


def _row(what: str, times: str, bp: float | None = None) -> Row:
    return {"what": what, "times": times, "bp of the capital": "" if bp is None else f"{bp:+,.1f}"}


def replayed(
    gateway: Gateway | None,
    store: ArtifactStore,
    reader: JournalReader,
    market: Market,
    predict: PredictHistory,
    account: str = "",
) -> Replayed:
    """Replay one account of a session, beside what the exchange says of the same bars today, where there is one.

    Args:
        gateway: The exchange; None compares with none.
        account: Name in the journal; empty for the session's own.

    Raises:
        ArtifactError: A version that decided is gone or damaged.
        StoreError: The journal is damaged.
    """
    account, facts = account or market.slug, reader.facts()
    models = {
        version: load_served(store, VersionRef(source=facts["source"], name=market.slug, version=version))
        for version in {decision.version for decision in reader.decisions(account)}
        if version
    }
    candles, _ = reader.candles(market.slug)
    reference = funding = None
    with suppress(PipelineError):  # what the exchange does not say any more is not compared
        if len(candles) and gateway is not None:
            first_ms, last_ms = int(candles.start_ms[0]), int(candles.start_ms[-1])
            reference = RestFeed(gateway=gateway).closed_since(market, first_ms).candles
            funding = gateway.funding(market.category, market.symbol, first_ms, last_ms)
    instrument = Instrument(**facts["instruments"][market.slug])
    return replay(reader, market, models, instrument, predict, account=account, reference=reference, funding=funding)


def review_session(
    settings: Settings, name: str, predict: PredictHistory, on_note: Callable[[str], object] = lambda line: None
) -> SessionReview:
    """Replay every account of a session from its journal, beside the exchange where that can be asked.

    Raises:
        StoreError: There is no such journal, or it is damaged.
        ArtifactError: A version that decided is not there any more.
    """
    path, store = session_path(settings.home, name), ArtifactStore(settings.models)
    if not path.exists():
        raise StoreError(f"there is no session {name!r} in {path.parent}; a session prints its name when it ends")
    with ExitStack() as stack:
        reader = stack.enter_context(JournalReader.of(path))
        facts = reader.facts()
        if "source" not in facts:
            raise StoreError(f"session {name!r} never began: its journal has nothing to replay")
        source, found = str(facts["source"]), {}
        for account in reader.accounts():
            slug, _, _ = account.partition("@")
            market, gateway = Market.of_slug(slug), None
            if not source.startswith("sandbox:"):
                gateway = stack.enter_context(connect(ExchangeConfig(exchange=source), market, bans=settings.bans))  # type: ignore[arg-type]
            found[account] = replayed(gateway, store, reader, market, predict, account)
            for line in differing(found[account]):
                on_note(line)
    return SessionReview(name=name, source=source, accounts=found)


def differing(again: Replayed) -> list[str]:
    """Return the first differences, one line each."""
    return [
        f"differs bar={one.start_ms} what={one.what} cause={one.cause or 'unexplained'}: {one.said}"
        for one in again.differences[:20]
    ]
