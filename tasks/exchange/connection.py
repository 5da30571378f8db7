"""Which exchange a flow talks to: Bybit, its test sites, or the sandbox, which replays a file or a synthetic market."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from storage.bounds import Checked
from storage.schema import (
    INTERVAL_MS,
    Candles,
    ConfigError,
    Hidden,
    Market,
    Source,
    Title,
    parse_source,
    sandbox_source,
    utc_text,
)
from tasks.exchange.bans import Ban
from tasks.exchange.gateway import Gateway
from tasks.exchange.pacing import RetryPolicy
from tasks.exchange.transport import Exchange
from tasks.market.synthetic import SyntheticMarket, description, generate, grown
from tasks.sandbox.candle_files import base_interval, file_source, read_candle_file, read_funding_file
from tasks.sandbox.listing import Listing
from tasks.sandbox.sandbox import Sandbox
from tasks.sandbox.venue_account import AccountSpec

_IN_A_SESSION = RetryPolicy(attempts=3, budget_s=8.0, bans=0)  # a session's thread must not wait long for an answer
_LOOPBACK = re.compile(r"http://127\.0\.0\.1:[0-9]{1,5}")


@dataclass(frozen=True, kw_only=True)
class ExchangeConfig(Checked):
    """Where candles come from.

    Attributes:
        exchange: sandbox (a simulated exchange on 127.0.0.1), bybit, testnet or demo.
        candles: Candle file that the sandbox replays (.parquet, .csv, .csv.gz, .zip); None for the synthetic market.
        funding: Parquet file of funding rates (start_ms, funding_rate) for the same replay; None for no funding.
        synthetic: The synthetic market that the sandbox generates when it replays no file.
        url: Address of a sandbox that is running already, as http://127.0.0.1:<port>; None starts one for each run.
        live: Whether the synthetic market continues in real time with a new bar each interval; otherwise it is fixed.
        requests_per_s: Most requests a second, all threads together; Bybit's limit is 120 for each address.
        threads: Requests in flight at once.
    """

    exchange: Annotated[Exchange, Title("Exchange")] = "sandbox"
    candles: Annotated[str | None, Title("Candle file to replay")] = None
    funding: Annotated[str | None, Title("Funding file to replay")] = None
    synthetic: Annotated[SyntheticMarket, Title("Made-up market")] = field(default_factory=SyntheticMarket)
    url: Annotated[str | None, Hidden] = None
    live: Annotated[bool, Title("Made-up market moves with real time")] = False
    requests_per_s: Annotated[float, Gt(0), Le(120), Hidden] = 60.0
    threads: Annotated[int, Ge(1), Le(32), Hidden] = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if "" in (self.candles, self.funding):  # an empty name would give different markets the same source label
            raise ConfigError("candles and funding must name a file, one is empty; name it or leave it out")
        if self.candles is not None and self.exchange != "sandbox":
            raise ConfigError(
                f"a candle file is replayed by the sandbox; leave out candles or exchange={self.exchange!r}"
            )
        if self.funding is not None and self.candles is None:
            raise ConfigError("a funding file goes with a candle file; leave out funding or name the candles")
        if self.url is not None and (self.exchange != "sandbox" or not _LOOPBACK.fullmatch(self.url)):
            raise ConfigError(
                f"url is of a sandbox on this machine, http://127.0.0.1:<port>, was {self.url[:60]!r} with "
                f"exchange={self.exchange!r}; leave it out"
            )
        if self.live and (self.exchange != "sandbox" or self.candles is not None):
            raise ConfigError("only the synthetic market can be live; leave out live, or candles and exchange")

    @property
    def source(self) -> Source:
        """The label stored with every candle, dataset and version that comes from this exchange."""
        if self.exchange != "sandbox":
            return parse_source(self.exchange)
        if self.candles is None:
            return sandbox_source(description(self.synthetic))
        return file_source(*(_path(name) for name in (self.candles, self.funding) if name))

    @property
    def origin(self) -> Literal["exchange", "replayed", "synthetic"]:
        """Origin of the candles: Bybit itself, or a sandbox that replays a file or generates a market."""
        if self.exchange != "sandbox":
            return "exchange"
        return "replayed" if self.candles else "synthetic"

    def same_candles(self, markets: Sequence[Market]) -> str:
        """Return a warning where the sandbox sends the same candles under several names; empty where it does not."""
        if self.exchange != "sandbox" or len(markets) < 2:
            return ""
        names = ", ".join(market.symbol for market in markets)
        return (
            f"{names} have the same candles under different names: a sandbox replays one file, or makes one market up. "
            "Side by side, or in a pool, they say no more than one"
        )

    @property
    def origin_detail(self) -> str:
        """Name of the replayed file, or the synthetic market's parameters and seed; empty for an exchange."""
        if self.exchange != "sandbox":
            return ""
        market = self.synthetic
        return (
            Path(self.candles).name
            if self.candles
            else f"{market.kind}, k={market.k}, psi={market.psi}, seed {market.seed}"
        )


def _path(name: str) -> Path:
    return Path(name).expanduser()


@contextmanager
def connect(
    config: ExchangeConfig,
    market: Market,
    on_retry: Callable[[str], object] = lambda line: None,
    bans: Path | None = None,
    on_note: Callable[[str], object] = lambda line: None,
) -> Iterator[Gateway]:
    """Open the exchange; a sandbox runs for as long as the gateway is open.

    Args:
        market: The market to fetch; the sandbox serves it from the candles that it replays.
        on_retry: Called with one line for every repeated request.
        bans: The home's folder of bans; None to share bans within this process only.
        on_note: Called with one line for each assumption made about a candle file (such as its time unit).

    Raises:
        ConfigError: The market's interval is shorter than the synthetic market's bars, or the candle file is unusable.
    """
    now_ms = int(time.time() * 1000) if config.live else None
    own = None
    if not _is_elsewhere(config):
        listings = _listings(config, [market], _candles(config, now_ms, on_note))
        own = Sandbox(listings, source=config.source, now_ms=now_ms)
    with _opened(config, own, bans, on_retry=on_retry) as link:
        yield link.gateway


@dataclass(frozen=True, kw_only=True)
class Link:
    """The connection of a session to its exchange.

    Attributes:
        url: Address of the sandbox; None for Bybit.
        sandbox: The sandbox that was started for the session, with its clock stopped; None otherwise.
        bans: The home's folder of bans; None to share bans within this process only.
    """

    gateway: Gateway
    url: str | None = None
    sandbox: Sandbox | None = None
    bans: Path | None = None

    @property
    def exchange(self) -> Exchange:
        """One of Bybit's hosts, or the sandbox."""
        return self.gateway.exchange

    @property
    def stream_url(self) -> str | None:
        """Address of the sandbox's stream; None for Bybit's own."""
        return self.url and self.url.replace("http:", "ws:")

    @property
    def is_replay(self) -> bool:
        """Whether time is that of the candles instead of this machine's clock."""
        return self.url is not None


@contextmanager
def connect_stream(
    config: ExchangeConfig,
    markets: Sequence[Market],
    now_ms: int,
    bars: int,
    on_retry: Callable[[str], object] = lambda line: None,
    accounts: Sequence[AccountSpec] = (),
    bans: Path | None = None,
) -> Iterator[Link]:
    """Open an exchange for a session; a sandbox is started with its clock at the session's start.

    Args:
        markets: The session's markets; a sandbox replays the same candles for each of them.
        now_ms: Start of a sandbox's clock, UTC milliseconds.
        bars: Bars of the longest interval that the sandbox must be able to replay; a synthetic market is generated
            that far.
        on_retry: Called with one line for every repeated request.
        accounts: Trading accounts of a sandbox that is started.
        bans: The home's folder of bans; None to share bans within this process only.

    Raises:
        ConfigError: The candle file ends too early.
    """
    own = None
    if not _is_elsewhere(config):
        end_ms = now_ms + bars * max(market.interval_ms for market in markets)
        # One bar more: the last decision is filled at the open after it.
        candles = _candles(config, end_ms + config.synthetic.interval_ms)
        known_ms = int(candles.start_ms[-1]) + INTERVAL_MS[base_interval(candles)]
        if known_ms < end_ms:
            raise ConfigError(
                f"a session of {bars} bars from {utc_text(now_ms)} needs candles until {utc_text(end_ms)}, "
                f"{config.candles} ends at {utc_text(known_ms)}; use a version that was trained on earlier bars "
                "(end=...)"
            )
        listings = _listings(config, markets, candles)
        own = Sandbox(listings, source=config.source, now_ms=now_ms, accounts=accounts)
    with _opened(config, own, bans, on_retry=on_retry, retry=_IN_A_SESSION) as link:
        yield link


def _is_elsewhere(config: ExchangeConfig) -> bool:
    return config.exchange != "sandbox" or config.url is not None


@contextmanager
def _opened(config: ExchangeConfig, own: Sandbox | None, bans: Path | None, **options: Any) -> Iterator[Link]:
    """Open the configured exchange, or a sandbox of our own, whose bans are its own too."""
    with own or nullcontext():
        url = own.url if own else config.url
        options |= {"requests_per_s": config.requests_per_s, "threads": config.threads}
        if own is None:
            options["ban"] = Ban.of(bans, config.exchange, url)
        with Gateway(config.exchange, source=config.source, url=url, **options) as gateway:
            yield Link(gateway=gateway, url=url, sandbox=own, bans=None if own else bans)


def _candles(
    config: ExchangeConfig, until_ms: int | None, on_note: Callable[[str], object] = lambda line: None
) -> Candles:
    """Return the candles that a sandbox replays; those of a synthetic market until a time, if one is given."""
    if config.candles:
        return read_candle_file(_path(config.candles), on_note)
    return generate(config.synthetic if until_ms is None else grown(config.synthetic, until_ms))


def _listings(config: ExchangeConfig, markets: Sequence[Market], candles: Candles) -> list[Listing]:
    interval = base_interval(candles)
    funding = read_funding_file(_path(config.funding)) if config.funding else ()
    return [Listing(candles=candles, market=replace(one, interval=interval), funding=funding) for one in markets]
