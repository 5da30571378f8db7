"""freqtrade, which is not ours, as a client of a sandbox: an environment of its own, its downloads, its dry run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from flows.entry.install import pip_settings, uv_settings
from storage.schema import OperationError
from tasks.sandbox.sandbox import Sandbox
from tests.clients.ccxt_client import ccxt_options
from tests.clients.compared_bars import Bars

VERSION = "2026.9"

_STRATEGIES = Path(__file__).with_name("strategies")
_INSTALL_LIMIT_S = 600.0
_DOWNLOAD_LIMIT_S = 120.0
_STOP_S = 30.0
_STAKE_USDT = 20  # less than the best level of any book holds


@dataclass(frozen=True, kw_only=True)
class FilledOrder:
    """An order of the dry run that was filled.

    Attributes:
        side: buy or sell.
        price: USDT per coin.
        placed_ms: UTC milliseconds of this machine's clock.
        filled_ms: Likewise.
    """

    side: str
    price: float
    placed_ms: int
    filled_ms: int


class Freqtrade:
    """freqtrade in a folder of its own.

    Args:
        folder: Keeps the environment; everything else in it is of the last run.
        sandbox: The exchange that it is pointed at.
        pair: What it downloads and trades, as ccxt names it.
    """

    def __init__(self, folder: Path, sandbox: Sandbox, pair: str) -> None:
        self._program = folder / "env" / "bin" / "freqtrade"
        self._pair = pair
        self._data = folder / "freqtrade"
        self._database = self._data / "trades.sqlite"
        shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir(parents=True)
        prices = {"price_side": "other", "use_order_book": True, "order_book_top": 1}
        config = {
            "dry_run": True,
            "dry_run_wallet": 10_000,
            "stake_currency": "USDT",
            "stake_amount": _STAKE_USDT,
            "max_open_trades": 1,
            "trading_mode": "futures",
            "margin_mode": "isolated",
            "entry_pricing": prices,
            "exit_pricing": prices,
            "exchange": {"name": "bybit", "pair_whitelist": [pair], "ccxt_config": ccxt_options(sandbox)},
            "pairlists": [{"method": "StaticPairList"}],
            "internals": {"process_throttle_secs": 1},
            "initial_state": "running",
        }
        (self._data / "config.json").write_text(json.dumps(config))

    def download(self, since_ms: int) -> dict[tuple[str, str], Bars]:
        """Return the candles that `freqtrade download-data` stores, by timeframe and kind; mark prices have no volume.

        Args:
            since_ms: From when on, UTC milliseconds.
        """
        wanted = ("--timerange", f"{since_ms // 1000}-", "--timeframes", "1m", "5m")
        with self._log("download-data").open("wb") as log, suppress(subprocess.TimeoutExpired):
            command = self._command("download-data", *wanted)
            subprocess.run(command, stdout=log, stderr=log, timeout=_DOWNLOAD_LIMIT_S, check=False)  # noqa: S603 - ours
        kinds = [("1m", "futures"), ("5m", "futures"), ("1h", "mark")]
        return {(timeframe, kind): self._stored(timeframe, kind) for timeframe, kind in kinds}

    @contextmanager
    def dry_run(self) -> Iterator[subprocess.Popen[bytes]]:
        """Trade on paper for as long as the block lasts."""
        strategy = ("--strategy", "HeldHalfAMinute", "--strategy-path", str(_STRATEGIES))
        wanted = (*strategy, "--db-url", f"sqlite:///{self._database}")
        with self._log("trade").open("wb") as log:
            bot = subprocess.Popen(  # noqa: S603 - ours
                self._command("trade", "--dry-run", *wanted), stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield bot
        finally:
            bot.send_signal(signal.SIGINT)
            try:
                bot.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                bot.kill()
                bot.wait()

    def bars(self) -> Bars:
        """Return the bars that the strategy has been shown so far as the newest closed ones."""
        log = self._data / "bars.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return {start: tuple(numbers) for start, *numbers in map(json.loads, lines)}

    def orders(self) -> list[FilledOrder]:
        """Return the orders that have been filled so far, oldest first."""
        if not self._database.exists():
            return []
        columns = "ft_order_side, average, order_date, order_filled_date"
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(self._database)) as database:
            rows = database.execute(f"select {columns} from orders where status = 'closed' order by id")  # noqa: S608
            return [
                FilledOrder(side=side, price=price, placed_ms=_ms(placed), filled_ms=_ms(filled))
                for side, price, placed, filled in rows
            ]
        return []  # it has not made its tables yet

    def errors(self) -> list[str]:
        """Return what it logged as an error; its exit status is 0 even where it refuses its configuration."""
        logs = [self._log(command) for command in ("download-data", "trade")]
        lines = [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()]
        return [line for line in lines if " - ERROR - " in line or " - CRITICAL - " in line]

    def _command(self, *arguments: str) -> list[str]:
        where = ("--config", str(self._data / "config.json"), "--userdir", str(self._data))
        return [str(self._program), *arguments, *where]

    def _log(self, command: str) -> Path:
        return self._data / f"{command}.log"

    def _stored(self, timeframe: str, kind: str) -> Bars:
        name = f"{self._pair.translate(str.maketrans('/:', '__'))}-{timeframe}-{kind}.feather"
        path = self._data / "data" / "bybit" / "futures" / name
        if not path.exists():
            return {}
        stored = pd.read_feather(path)
        names = ["open", "high", "low", "close", *(["volume"] if kind != "mark" else [])]
        starts = stored["date"].dt.as_unit("ms").astype("int64").tolist()
        return dict(zip(starts, stored[names].itertuples(index=False, name=None), strict=True))


def install(folder: Path) -> None:
    """Make an environment with freqtrade in a folder, unless it is there.

    Raises:
        OperationError: The package index is out of reach, or has no such version.
    """
    environment, stamp = folder / "env", folder / "env" / "installed"
    if stamp.exists() and stamp.read_text() == VERSION:
        return
    shutil.rmtree(environment, ignore_errors=True)
    python, wanted = str(environment / "bin" / "python"), f"freqtrade=={VERSION}"
    uv, plan = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent)), _uv_plan()
    venv.create(environment, symlinks=True, with_pip=not (uv and plan))
    command, settings = [python, "-m", "pip", "install", "--quiet", "--retries", "1", wanted], {}
    if uv and plan:
        settings, arguments = plan
        command = [uv, "pip", "install", "--quiet", "--python", python, *arguments, wanted]
    done = subprocess.run(  # noqa: S603 - ours
        command, env=os.environ | settings, capture_output=True, text=True, timeout=_INSTALL_LIMIT_S, check=False
    )
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise OperationError(f"freqtrade {VERSION} must come from a package index, which gave none: {reason[:300]}")
    stamp.write_text(VERSION)


def _uv_plan() -> tuple[dict[str, str], list[str]] | None:
    asked = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    return uv_settings(pip_settings(listed.stdout))


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)
