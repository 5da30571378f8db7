"""A freqtrade strategy that buys at each bar, sells half a minute later, and writes down every bar that it is shown.

freqtrade finds it in this folder; nothing else may lie here, for freqtrade imports it all.
"""

import json
from pathlib import Path

from freqtrade.strategy import IStrategy

HELD_S = 30


class HeldHalfAMinute(IStrategy):
    """Buys and sells at the market, whatever the bars say."""

    INTERFACE_VERSION = 3
    timeframe = "1m"
    minimal_roi: dict = {}  # noqa: RUF012 - freqtrade's
    stoploss = -0.99
    startup_candle_count = 5
    order_types = {  # noqa: RUF012 - freqtrade's
        "entry": "market", "exit": "market", "stoploss": "market", "stoploss_on_exchange": False,
    }  # fmt: skip

    def populate_indicators(self, dataframe, metadata):
        newest = dataframe.iloc[-1]
        names = ("open", "high", "low", "close", "volume")
        bar = [int(newest["date"].timestamp()) * 1000, *(float(newest[name]) for name in names)]
        with (Path(self.config["user_data_dir"]) / "bars.jsonl").open("a") as bars:
            bars.write(json.dumps(bar) + "\n")
        return dataframe

    def populate_entry_trend(self, dataframe, metadata):
        dataframe["enter_long"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        return dataframe

    def custom_exit(self, pair, trade, current_time, current_rate, current_profit, **kwargs):
        return "held" if (current_time - trade.open_date_utc).total_seconds() >= HELD_S else None
