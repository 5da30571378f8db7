"""Turns: two retrains of one market never run at once, whichever deployment, worker or shell started them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging import get_run_logger

from storage.locks import exclusive
from storage.schema import Market
from storage.settings import Settings
from tasks.connection import ExchangeConfig

_LONGEST_TURN_S = 4 * 3600.0  # a retrain takes minutes; whoever waits for longer waits for something that hangs


@contextmanager
def retrain_turn(exchange: ExchangeConfig, market: Market) -> Iterator[None]:
    """Wait for other retrains of this market from this source on this machine, then keep them waiting.

    Whoever comes second finds the first one's folds and version by their keys, so that on equal candles it has little
    left to do. A kill ends the turn. On several machines, where locks do not reach, both may train; the champion's
    history still takes one entry only.

    Raises:
        StoreBusyError: Another retrain held its turn for hours.
    """
    what = f"the retrain of {exchange.source} {market.slug}"
    path = Settings.from_environment().locks / f"retrain-{exchange.source.replace(':', '-')}-{market.slug}.lock"
    with exclusive(path, what, _LONGEST_TURN_S, on_wait=get_run_logger().warning):
        yield
