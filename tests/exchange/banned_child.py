"""A process that asks an exchange at the times it is told, and says what it heard."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from storage.api_keys import ApiKey
from storage.schema import Banned, Market, Source
from tasks.exchange.bans import Ban
from tasks.exchange.gateway import Gateway
from tasks.exchange.pacing import RetryPolicy
from tasks.exchange.trading_account import TradingAccount

KEY = ApiKey("sandbox", "KEYFORTESTS", "SECRETFORTESTS")


def main(role: str, url: str, path: str) -> None:
    """Ask once for each line of the input, that many seconds from now on: a session's questions, or an account's."""
    passed_s = 0.0
    ban = Ban(
        Path(path), clock=lambda: time.monotonic() + passed_s, wall_clock_s=lambda: time.time() + passed_s
    )  # fmt: skip
    with (
        Gateway("sandbox", source=Source("sandbox:0123abcd"), url=url, ban=ban, retry=RetryPolicy(bans=0)) as gateway,
        TradingAccount("sandbox", KEY, url=url, ban=ban) as account,
    ):
        print("ready", flush=True)
        for line in sys.stdin:
            passed_s = float(line)
            try:
                if role == "gateway":
                    gateway.server_time_ms()
                else:
                    account.cancel_all(Market())
                print("served", flush=True)
            except Banned as err:
                print(err, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
