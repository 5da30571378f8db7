"""Put the champion before the present one in force again, or show the history."""

from prefect import flow

from flows.entry.command_line import run_by_hand
from flows.entry.form import form
from flows.entry.parameters import Exchange, OneMarket
from storage.schema import Market
from tasks.exchange.connection import ExchangeConfig
from tasks.publishing import champion_history, roll_back


@flow(name="rollback", flow_run_name="rollback {market} {exchange.exchange}")
@form
def rollback(
    *,
    market: OneMarket = Market(),
    exchange: Exchange = ExchangeConfig(),
    reason: str = "",
) -> list[str]:
    """Put the champion before the present one in force again, and print the history; without a reason only print it.

    Args:
        market: Symbol, category and interval.
        exchange: Names the source.
        reason: Why, one line; it stays on record.
    """
    if reason:
        roll_back(exchange, market, reason)
    lines = champion_history(exchange, market)
    print("\n".join(lines))
    return lines


if __name__ == "__main__":
    run_by_hand(
        rollback,
        ("flows.rollback --exchange bybit --symbol BTCUSDT", 'flows.rollback --exchange bybit --reason "it loses"'),
    )
