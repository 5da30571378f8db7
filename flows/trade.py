"""Trade a market bar by bar: signals as lines of JSON, or fills on paper; the session is journalled and replayed."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter
from prefect import flow

from flows.entry.command_line import run_by_hand
from flows.entry.form import Folded, form
from flows.pipeline import pipeline
from storage.schema import Market
from tasks.exchange.connection import ExchangeConfig
from tasks.live.session_config import SessionConfig
from tasks.runs.display import plan, stage
from tasks.trading import SessionResult, hold_session, newest_version


@flow(name="trade", flow_run_name="{mode} {market} {exchange.exchange}")
@form
def trade(
    *,
    market: Annotated[Market, Parameter(name="*")] = Market(),
    exchange: Annotated[ExchangeConfig, Parameter(name="*")] = ExchangeConfig(),
    mode: Literal["signal", "paper"] = "paper",
    version: str = "champion",
    steps: int | None = None,
    session: str = "",
    rules: Annotated[SessionConfig, Parameter(name="*"), Folded] = SessionConfig(),
) -> SessionResult:
    """Step a market as its bars close: decide, fill on paper, journal, and replay it all at the end. Sends no order.

    Args:
        market: Symbol, category and interval.
        exchange: Where candles come from.
        mode: signal prints each decision as a line of JSON and has no broker; paper fills on paper.
        version: champion; newest, which is trained first if there is none; or the name of one.
        steps: After how many bars the session ends; none goes on until it is stopped, on the sandbox after 2,000.
        session: Its name; the name of an earlier one goes on with it. Empty begins a new one.
        rules: Capital, deadlines.
    """
    if mode == "paper":
        plan(("train", "session"))
    if version == "newest" and newest_version(exchange, market) is None:
        stage("train")
        pipeline(market=market, exchange=exchange)
    stage("session")
    result = hold_session(exchange, market, mode, version, steps, rules, session)
    print(result.text(), file=sys.stderr if mode == "signal" else sys.stdout)
    return result


if __name__ == "__main__":
    run_by_hand(
        trade,
        (
            "flows.trade --mode signal",
            "flows.trade --mode paper --exchange bybit --symbol BTCUSDT --session btc-paper",
        ),
        status=lambda result: int(result.unexplained > 0),
    )
