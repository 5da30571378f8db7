"""What session is to be held, and where its journal lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from storage.schema import ConfigError, Market
from tasks.exchange.connection import ExchangeConfig
from tasks.exchange.transport import Exchange
from tasks.live.session_config import SessionConfig

Mode = Literal["signal", "paper", "sandbox", "demo", "testnet", "live"]

ORDER_MODES: Mapping[str, Exchange] = {"sandbox": "sandbox", "demo": "bybit", "testnet": "testnet", "live": "bybit"}
"""Modes that send orders, and where the candles of each come from."""

SANDBOX_BARS = 2_000
"""Bars of a session on the sandbox where nobody says how many."""

_NAME = 100


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """What session is to be held.

    Attributes:
        markets: One or more, each symbol once.
        mode: signal has no broker; paper fills on paper; the others send orders to an account of that name.
        version: champion, newest, or a version's name.
        shadows: How many of the newest other versions watch in each market.
        bars: After how many bars of each market it ends, those of before a restart included; None goes on until it is
            stopped, on the sandbox after 2,000.
        bar_every_s: Real seconds that a bar of the sandbox takes, at least.
        name: Of the session; empty for a new one.

    Raises:
        ConfigError: The sandbox that it would start is to be live: in a session its bars make the time.
    """

    exchange: ExchangeConfig
    markets: Sequence[Market]
    mode: Mode
    version: str = "champion"
    shadows: int = 0
    bars: int | None = None
    bar_every_s: float = 0.005
    config: SessionConfig = SessionConfig()
    name: str = ""

    def __post_init__(self) -> None:
        if self.exchange.live and self.exchange.url is None:
            raise ConfigError(
                "a session with a sandbox goes by the time of its bars; leave out live (in the form: made-up market "
                "moves with real time)"
            )

    @property
    def most_bars(self) -> int | None:
        """After how many bars it ends; None for no end."""
        return self.bars or (SANDBOX_BARS if self.exchange.exchange == "sandbox" else None)

    @property
    def sends_orders(self) -> bool:
        """Whether its decisions are carried out by orders."""
        return self.mode in ORDER_MODES

    @property
    def has_own_account(self) -> bool:
        """Whether the account lasts as long as the session, as its sandbox does."""
        return self.mode == "sandbox" and self.exchange.url is None

    def named(self) -> Self:
        """Return the same plan with a name."""
        (market, *more) = self.markets
        rest = f"-and-{len(more)}-more" if more else ""
        name = self.name or f"{self.mode}-{market.slug}{rest}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        return replace(self, name=name)


def session_path(home: Path, name: str) -> Path:
    """Return where the journal of a session lies.

    Raises:
        ConfigError: The name can't be one.
    """
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > _NAME:
        raise ConfigError(f"a session's name must be up to {_NAME} letters, digits, - and _, was {name!r}")
    return home / "sessions" / f"{name}.sqlite"
