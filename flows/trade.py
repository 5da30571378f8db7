"""Trade markets bar by bar: signals as lines of JSON, or fills on paper; the session is journalled and replayed."""

import os
import sys
from typing import Annotated, Literal

from annotated_types import Ge, Le
from cyclopts import Parameter
from prefect import flow

from flows.entry.command_line import run_by_hand
from flows.entry.form import Folded, form
from flows.entry.parameters import Exchange, OneMarket, Symbols
from storage.bounds import PositiveInt
from storage.schema import Market, Title
from storage.settings import pasteable
from tasks.exchange.connection import ExchangeConfig
from tasks.fan_out import distinct
from tasks.live.gates import CONFIRM_LIVE, confirmation
from tasks.live.outcome import SessionResult
from tasks.live.session_config import SessionConfig
from tasks.live.session_plan import SessionPlan
from tasks.runs.display import end_stage, plan, stage
from tasks.runs.page import page_key
from tasks.trading import hold_session, lacks_a_version


@flow(name="trade", flow_run_name="{mode} {market} {exchange.exchange}")
@form
def trade(
    *,
    market: OneMarket = Market(),
    exchange: Exchange = ExchangeConfig(),
    symbols: Symbols = (),
    mode: Annotated[
        Literal["signal", "paper", "sandbox", "demo", "testnet", "live"],
        Title("Signals alone, fills on paper, or orders to an account"),
    ] = "paper",
    version: str = "champion",
    shadows: Annotated[int, Ge(0), Le(10), Title("Other versions beside it")] = 0,
    steps: Annotated[PositiveInt | None, Title("Bars until it ends")] = None,
    bar_every_s: Annotated[float, Ge(0), Le(60), Title("Seconds of a bar, on the sandbox")] = 0.005,
    session: str = "",
    rules: Annotated[
        SessionConfig, Parameter(name="*"), Folded, Title("Deadlines, clock, how it ends")
    ] = SessionConfig(),
) -> SessionResult:
    """Step markets as their bars close: decide, fill, journal, and replay it all at the end. Sends no order by default.

    Args:
        market: Symbol, category and interval.
        exchange: Where candles come from.
        symbols: Many markets in one session, a symbol each, on a command line with commas; category and interval are
            the market's.
        mode: signal (a line of JSON a decision), paper (fills on paper), or orders to an account: sandbox, demo,
            testnet and live send them there, and need its key.
        version: champion, newest (which is trained first if there is none), or the name of one.
        shadows: How many of the newest other versions decide and fill on paper beside it.
        steps: After how many bars the session ends; none goes on until it is stopped, on the sandbox after 2,000.
        bar_every_s: Real seconds that a bar of the sandbox takes, at least.
        session: Its name; the name of an earlier one goes on with it. Empty begins a new one.
        rules: Capital, deadlines, clock, what becomes of the position at the end, orders and their limits.
    """
    markets = distinct(market, symbols) if symbols else [market]
    if mode == "live" and sys.stdin.isatty() and CONFIRM_LIVE not in os.environ:
        os.environ[CONFIRM_LIVE] = input(f"Orders with real money. Type '{confirmation(markets)}' to go on: ")
    asked = SessionPlan(
        exchange=exchange, markets=markets, mode=mode, version=version, shadows=shadows, bars=steps,
        bar_every_s=bar_every_s, config=rules, name=session,
    )  # fmt: skip
    if mode == "paper":
        plan(("train", "session"))
    if version == "newest":
        for one in markets:
            if lacks_a_version(exchange, one):
                from flows.pipeline import pipeline  # with torch: only training needs it

                stage("train")
                pipeline(market=one, exchange=exchange)
    stage("session")
    result = hold_session(asked)
    end_stage()
    pages = " ".join(page_key("session", exchange.source, one) for one in markets)
    closing = {
        "page": f"in the UI (make ui), under Artifacts: {pages}",
        "next": f"compare it with a backtest again: {pasteable(f'flows.evaluate --session {result.name}')}",
    }
    lines = [result.text(), *(f"  {name:<11}  {value}" for name, value in closing.items())]
    print("\n".join(lines), file=sys.stderr if mode == "signal" else sys.stdout)
    return result


if __name__ == "__main__":
    run_by_hand(
        trade,
        (
            "flows.trade --mode signal",
            "flows.trade --mode paper --exchange bybit --symbol BTCUSDT",
        ),
        status=lambda result: result.status,
    )
