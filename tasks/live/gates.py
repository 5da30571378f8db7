"""What must hold before a session may send orders, judged before anything is connected to: no, with a code, is usual.

SOURCE        candles of another place than the account's: demo has Bybit's prices, testnet its own
VERSION       something else than the champion is asked for
CHAMPION      there is none, it is flat, expired, damaged, unknown, or of another source
HALTED        a limit or a person has halted the market, and the session holds nothing there that it might close;
              `flows.halt --rearm` undoes it
KEY           the environment's own key is not there, or is one of another
CAPITAL       live needs the capital that the session starts with
UNKNOWN       live needs the distance of the stop at the exchange, and when to close what is held while something is
              unknown
RISK          nobody knows what was lost: the file that says so is damaged
UNFORESEEN    a limit is in units of forecast volatility, and the version forecasts none
CONFIRMATION  live asks a person, or the variable that a service sets
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from storage.api_keys import ApiKey, Environment
from storage.schema import ConfigError, Market, PipelineError
from storage.settings import pasteable
from tasks.exchange.transport import Exchange

ORDER_MODES: Mapping[str, Exchange] = {"sandbox": "sandbox", "demo": "bybit", "testnet": "testnet", "live": "bybit"}
"""Modes that send orders, and where the candles of each come from."""

CONFIRM_LIVE = "DSC_CONFIRM_LIVE"
"""Variable with which a service confirms what a person types: `confirmation`'s words."""


class Denied(PipelineError):
    """No order is sent: an account, a key, a champion or a market is not one that may trade.

    Args:
        code: One word.
        message: The rule and what was found.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def confirmation(markets: Sequence[Market]) -> str:
    """Return what must be typed before orders go to a live account."""
    return f"live {' '.join(market.symbol for market in markets)}"


def gate(
    mode: str,
    exchange: Exchange,
    version: str,
    why_none: Mapping[Market, str],
    halts: Mapping[Market, str],
    environ: Mapping[str, str] | None = None,
) -> Environment:
    """Return the environment that orders may go to.

    Args:
        mode: One of `ORDER_MODES`.
        exchange: Where candles come from.
        version: What is asked to decide.
        why_none: Of each market, why nothing decides; empty where the champion does.
        halts: Of each market, why it is halted; empty where it is not, or where the session is to close what it holds.
        environ: For the confirmation; None: the process's own.

    Raises:
        Denied: Something is missing; nothing has been connected to.
    """
    env = os.environ if environ is None else environ
    if exchange != ORDER_MODES[mode]:
        raise Denied("SOURCE", f"mode {mode} trades on candles of {ORDER_MODES[mode]}, was {exchange}")
    if version != "champion" and mode != "sandbox":
        raise Denied("VERSION", f"only the champion sends orders, was version {version!r}; paper trades any")
    for market, why in why_none.items():
        if why:
            raise Denied("CHAMPION", f"{market}: {why}; nothing is traded")
    for market, why in halts.items():
        if why:
            raise Denied(
                "HALTED",
                f"{market}: {why}; look into it; {pasteable('flows.halt')} closes what is held, then the same with "
                "--rearm",
            )
    environment: Environment = mode  # type: ignore[assignment]  # a mode that sends orders is named after it
    if mode == "live" and env.get(CONFIRM_LIVE) != (asked := confirmation(list(why_none))):
        raise Denied("CONFIRMATION", f"orders with real money need {CONFIRM_LIVE}={asked!r}, or the words typed")
    return environment


def key_of(environment: Environment, environ: Mapping[str, str] | None = None) -> ApiKey:
    """Return the key of an environment.

    Raises:
        Denied: It is not there.
    """
    try:
        return ApiKey.of(environment, environ)
    except ConfigError as err:
        raise Denied("KEY", str(err)) from err
