"""Stop trading at once, whatever the session does: cancel, close, and let nothing open until somebody re-arms it.

    python -m flows.halt --mode demo --symbols BTCUSDT,ETHUSDT --why "the news"
    python -m flows.halt --mode demo --symbols BTCUSDT --rearm

It is no flow: it needs no server and no session, and it ends with status 1 while anything is open, or where a latch
could not be written: what is held is closed all the same. While the exchange refuses this machine's address it waits,
and closes when that has ended.
"""

import sys
from contextlib import suppress
from functools import partial
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from storage.schema import ConfigError, Market, PipelineError, StoreError
from storage.settings import Settings
from tasks.live.gates import Denied, key_of
from tasks.live.halting import close_all, latch_all
from tasks.live.halts import Halts
from tasks.live.order_gateway import account_of

app = cyclopts.App(name="python -m flows.halt", version_flags=(), help_format="plaintext", result_action="return_value")


@app.default
def main(
    *,
    symbols: str,
    mode: Literal["sandbox", "demo", "testnet", "live"] = "live",
    why: str = "halted by hand",
    rearm: Annotated[bool, Parameter(negative="")] = False,
    url: str | None = None,
) -> int:
    """Latch markets, cancel their orders and close their positions; or re-arm them.

    Args:
        symbols: Perpetuals, comma-separated.
        mode: Whose account; a sandbox's is that of DSC_BYBIT_SANDBOX_KEY. A session on paper has none, and Ctrl-C or
            SIGTERM ends it.
        why: What others will read.
        rearm: Let the markets be traded again; nothing is sent.
        url: Where a sandbox is running, as http://127.0.0.1:<port>.
    """
    if (mode == "sandbox") != (url is not None):
        raise ConfigError("url is where a sandbox is running, and goes with --mode sandbox")
    markets = [Market(symbol=symbol.strip().upper()) for symbol in symbols.split(",")]
    settings = Settings.from_environment()
    halts = Halts.of(settings.home)
    if rearm:
        settings.prepare_home()
        for market in markets:
            was = halts.rearm(mode, market)
            print(f"{market.symbol} on {mode} may be traded again; it was halted: {was.why if was else 'never'}")
        return 0
    with suppress(StoreError):  # nothing is latched then, which is said below, and what is held is closed
        settings.prepare_home()
    note = partial(print, flush=True)
    unlatched = latch_all(halts, mode, markets, why, note)  # before the key is looked for: without one too
    for line in unlatched:
        print(f"NOT LATCHED {line}", file=sys.stderr, flush=True)
    try:
        key = key_of(mode)
    except Denied as err:
        print(f"NOT CLOSED {err}; no order was cancelled and no position closed", file=sys.stderr, flush=True)
        return 1
    with account_of(key, url, settings.bans) as trading:
        still_open = close_all(trading, markets, on_note=note)
    for line in still_open:
        print(f"STILL OPEN {line}", file=sys.stderr)
    return int(bool(unlatched or still_open))


if __name__ == "__main__":
    try:
        sys.exit(app(sys.argv[1:]))
    except PipelineError as err:
        sys.exit(f"{type(err).__name__}: {err}")
