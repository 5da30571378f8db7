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

import os
import secrets
from collections.abc import Collection, Mapping, Sequence

from storage.api_keys import ApiKey, Environment
from storage.schema import ConfigError, Market, PipelineError
from storage.settings import pasteable
from tasks.champion.version_selector import VersionChoice
from tasks.live.halts import Halts
from tasks.live.session_plan import ORDER_MODES, SessionPlan

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


def gate(plan: SessionPlan, chosen: Mapping[Market, VersionChoice], halts: Halts, held: Collection[Market]) -> ApiKey:
    """Return the key of the account that a session's orders may go to; nothing has been connected to.

    Args:
        plan: The session; its mode sends orders.
        held: Markets in which the session holds something by its journal, or may: it closes what is halted.

    Raises:
        Denied: Something is missing.
    """
    if plan.mode == "live" and plan.config.capital is None:
        raise Denied("CAPITAL", "live needs the capital that the session starts with: --capital")
    if plan.mode == "live" and (unsaid := plan.config.orders.unset):
        asked = {"stop_share": "0.1", "close_after_bars": "3"}
        give = " ".join(f"--orders.{name.replace('_', '-')} {asked[name]}" for name in unsaid)
        raise Denied("UNKNOWN", f"live needs said what becomes of a position when something is unknown: {give}")
    deciding = {market: model for market, (model, *_) in chosen.items() if model}
    blind = [str(market) for market, model in deciding.items() if not model.recipe.network_config.risk_head]
    if blind and plan.config.limits.daily_vols is not None:
        raise Denied(
            "UNFORESEEN",
            f"--limits.daily-vols counts in forecast volatility, and what decides in {', '.join(blind)} has none; "
            "leave it out, or let a version decide whose network has a risk head",
        )
    if (exchange := plan.exchange.exchange) != ORDER_MODES[plan.mode]:
        raise Denied("SOURCE", f"mode {plan.mode} trades on candles of {ORDER_MODES[plan.mode]}, was {exchange}")
    if plan.version != "champion" and plan.mode != "sandbox":
        raise Denied("VERSION", f"only the champion sends orders, was version {plan.version!r}; paper trades any")
    for market, one in chosen.items():
        if one.model is None and one.why_none:
            raise Denied("CHAMPION", f"{market}: {one.why_none}; nothing is traded")
    for market in chosen:
        if market not in held and (halt := halts.read(plan.mode, market)):
            raise Denied(
                "HALTED",
                f"{market}: {halt.why}; look into it; {pasteable('flows.halt')} closes what is held, then the same "
                "with --rearm",
            )
    if plan.mode == "live" and os.environ.get(CONFIRM_LIVE) != (words := confirmation(list(chosen))):
        raise Denied("CONFIRMATION", f"orders with real money need {CONFIRM_LIVE}={words!r}, or the words typed")
    if plan.has_own_account:
        return ApiKey("sandbox", secrets.token_hex(9), secrets.token_hex(18))
    return key_of(plan.mode)  # type: ignore[arg-type]  # a mode that sends orders is named after its environment


def key_of(environment: Environment) -> ApiKey:
    """Return the key of an environment.

    Raises:
        Denied: It is not there.
    """
    try:
        return ApiKey.of(environment)
    except ConfigError as err:
        raise Denied("KEY", str(err)) from err
