"""Clients that are not ours on the sandbox, in real time: they must see its market, bar for bar and price for price.

    python -m tests.clients

ccxt reads and watches the bars; freqtrade, in an environment of its own, downloads them and trades on paper for some
minutes. $DSC_HOME/clients.json keeps the result; the exit status is 1 where anything is missing.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ccxt

from storage.schema import INTERVAL_MS, PipelineError
from storage.settings import Settings
from tasks.sandbox.faults import KLINE_PATH
from tasks.sandbox.sandbox import Sandbox
from tests.clients import freqtrade_client
from tests.clients.ccxt_client import Watcher, read_bars
from tests.clients.compared_bars import Comparison
from tests.clients.freqtrade_client import Freqtrade
from tests.clients.live_market import MARKET, PAIR, closed_bars, had_price, listing_of, live_market

_LIMIT_S = 330.0  # for everything after the installation
_ENOUGH_BARS = 3  # over freqtrade's stream
_ENOUGH_ORDERS = 2  # bought and sold
_LOOKED_BEFORE_MS = 20_000  # how long before it places an order a busy freqtrade may have looked at the book
_INTERVALS = {"1m": "1", "5m": "5", "1h": "60"}

RULES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "ccxt reads the sandbox's candles": lambda n: n["ccxt_candles_equal"] > 0 and not n["ccxt_candles_differ"],
    "ccxt watches the sandbox's candles": lambda n: n["ccxt_watched_equal"] > 0 and not n["ccxt_watched_differ"],
    "freqtrade downloads the sandbox's candles": lambda n: (
        n["freqtrade_candles_equal"] > 0 and not n["freqtrade_candles_differ"]
    ),
    "freqtrade's strategy is shown the sandbox's bars": lambda n: (
        n["freqtrade_bars_seen"] > 0 and not n["freqtrade_bars_differ"]
    ),
    "bars arrive over freqtrade's WebSocket": lambda n: n["freqtrade_bars_over_stream"] > 0,
    "freqtrade opens a trade": lambda n: n["freqtrade_trades"] > 0,
    "its prices were the market's": lambda n: not n["freqtrade_prices_unknown"],
    "freqtrade logs no error": lambda n: not n["freqtrade_errors"],
    "every request had an endpoint": lambda n: not n["requests_unknown"],
}


def missing(numbers: Mapping[str, Any]) -> list[str]:
    """Return the rules that the numbers of clients.json do not keep."""
    return [rule for rule, is_kept in RULES.items() if not is_kept(numbers)]


def run_clients(folder: Path) -> dict[str, Any]:
    """Let the clients at a sandbox and return what they saw, as clients.json has it.

    Args:
        folder: Keeps freqtrade's environment.

    Raises:
        OperationError: freqtrade can't be installed.
    """
    print(f"freqtrade {freqtrade_client.VERSION} in {folder}, installed once", flush=True)
    freqtrade_client.install(folder)
    began = time.monotonic()
    with live_market() as sandbox:
        freqtrade = Freqtrade(folder, sandbox, PAIR)
        numbers = _downloaded(sandbox, freqtrade)
        print(f"{time.monotonic() - began:4.0f} s  downloaded; now a few minutes of dry run", flush=True)
        dry_run_ms = sandbox.clock.now_ms()
        with Watcher(sandbox, PAIR, "1m") as watcher, freqtrade.dry_run() as bot:
            while True:
                numbers |= _traded(sandbox, freqtrade, dry_run_ms)
                is_late = time.monotonic() - began > _LIMIT_S
                if is_late or bot.poll() is not None or _is_enough(numbers):
                    break
                time.sleep(1.0)
            watcher.wait_for_bar(MARKET.floor(sandbox.clock.now_ms()))
        return numbers | _by_ccxt(sandbox, watcher) | {
            "freqtrade_errors": freqtrade.errors(),
            "requests": len(sandbox.requests),
            "requests_unknown": dict(Counter(asked.path for asked in sandbox.requests if not asked.known)),
            "seconds": round(time.monotonic() - began),
            "versions": {"ccxt": ccxt.__version__, "freqtrade": freqtrade_client.VERSION},
        }  # fmt: skip


def _downloaded(sandbox: Sandbox, freqtrade: Freqtrade) -> dict[str, Any]:
    since_ms, known_ms = listing_of(sandbox).replay.first_ms, sandbox.clock.now_ms()
    compared = []
    for (timeframe, _), bars in freqtrade.download(since_ms).items():
        truth = closed_bars(sandbox, _INTERVALS[timeframe])
        needed = range(since_ms, known_ms - INTERVAL_MS[_INTERVALS[timeframe]] + 1)
        compared.append(Comparison.of(bars, truth, needed))
    return {
        "freqtrade_candles_equal": sum(one.equal for one in compared),
        "freqtrade_candles_differ": sum(len(one.differ) for one in compared),
    }


def _traded(sandbox: Sandbox, freqtrade: Freqtrade, since_ms: int) -> dict[str, Any]:
    listing, bars, orders = listing_of(sandbox), freqtrade.bars(), freqtrade.orders()
    asked_ms = [asked.time_ms for asked in sandbox.requests if asked.path == KLINE_PATH and asked.time_ms > since_ms]
    seen = Comparison.of(bars, closed_bars(sandbox), range(0))
    known = [
        had_price(listing, one.side, one.price, one.placed_ms - _LOOKED_BEFORE_MS, one.filled_ms) for one in orders
    ]
    return {
        "freqtrade_bars_seen": len(bars),
        "freqtrade_bars_differ": len(seen.differ),
        # What closed after the last question over REST can't have come from there.
        "freqtrade_bars_over_stream": sum(start + MARKET.interval_ms > max(asked_ms, default=0) for start in bars),
        "freqtrade_trades": sum(one.side == "buy" for one in orders),
        "freqtrade_prices_unknown": known.count(False),
        "freqtrade_orders": len(orders),
    }


def _is_enough(numbers: Mapping[str, Any]) -> bool:
    return numbers["freqtrade_bars_over_stream"] >= _ENOUGH_BARS and numbers["freqtrade_orders"] >= _ENOUGH_ORDERS


def _by_ccxt(sandbox: Sandbox, watcher: Watcher) -> dict[str, Any]:
    first_ms, forming_ms = listing_of(sandbox).replay.first_ms, max(watcher.bars)
    watched = {start: bar for start, bar in watcher.bars.items() if start < forming_ms}
    bars = read_bars(sandbox, PAIR, "1m", first_ms)
    truth = closed_bars(sandbox)
    read = Comparison.of(bars, truth, range(first_ms, forming_ms))
    seen = Comparison.of(watched, truth, range(min(watched, default=forming_ms), forming_ms))
    return {
        "ccxt_candles_equal": read.equal,
        "ccxt_candles_differ": len(read.differ),
        "ccxt_watched_equal": seen.equal,
        "ccxt_watched_differ": len(seen.differ),
    }


def main() -> int:
    """Run the clients, print and keep the result, and return the exit status."""
    settings = Settings.from_environment()
    try:
        home = settings.prepare_home()
        numbers = run_clients(home / "clients")
    except PipelineError as err:
        sys.exit(f"{type(err).__name__}: {err}")
    broken = missing(numbers)
    path = home / "clients.json"
    path.write_text(json.dumps(numbers | {"missing": broken}, indent=1) + "\n")
    for name, value in numbers.items():
        print(f"  {name:28} {value}")
    for rule in RULES:
        print(f"  {'MISSING' if rule in broken else 'yes    '}  {rule}")
    print(path)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
