"""What Python and Numba would compile at the first start, compiled ahead of it.

    python -m flows.entry.first_start modules|kernels

The halves are for two cores: the installer runs both side by side. Whatever fails here, or is
changed afterwards, is compiled where it is first needed.
"""

import sys
from dataclasses import replace

from storage.settings import Settings


def import_modules() -> None:
    """Import what a run imports, start and stop a server such as it starts, and keep the database that it made."""
    import matplotlib.figure  # noqa: F401
    import onnxruntime  # noqa: F401
    import prefect.flow_engine
    import prefect.task_engine  # noqa: F401

    import flows.pipeline  # noqa: F401
    from flows.entry.environment import prefect_home
    from flows.entry.fresh_database import keep_database
    from flows.entry.server import server_at_hand
    from flows.retrain import LIBRARIES

    home = Settings.from_environment().prepare_home()
    with server_at_hand(home, LIBRARIES):
        pass
    keep_database(prefect_home(home))


def compile_kernels() -> None:
    """Call whatever of a retrain Numba compiles, once, on a few bars."""
    import numpy as np

    from tasks.execution.accounting import Costs
    from tasks.execution.backtest import BacktestConfig, buy_and_hold
    from tasks.execution.bars import Bars
    from tasks.execution.decision import DecisionConfig, decide_series, packed
    from tasks.execution.significance import bootstrap_means
    from tasks.market.features import build_features
    from tasks.market.synthetic import SyntheticMarket, generate
    from tasks.network.architecture import DSCConfig
    from tasks.network.latency import measure_latency

    market = SyntheticMarket(bars=100)
    generate(replace(market, kind="gated"))
    candles = generate(market)
    vol = build_features(candles.matrix(), market.interval_ms).vol
    measure_latency([DSCConfig()], 1, runtimes=["engine"])
    bars = Bars(start_ms=candles.start_ms, open=candles.open, close=candles.close, interval_ms=market.interval_ms)
    params = packed(DecisionConfig(), Costs(), np.array([-0.5, 0.0, 0.5]), 12)
    decide_series(np.full((len(bars), 3), 1 / 3), vol, bars.contiguous, params)
    _ = buy_and_hold(bars, Costs(), BacktestConfig()).trades
    bootstrap_means(np.zeros((2, 2)), 1.0, draws=1, seed=7)


if __name__ == "__main__":
    {"modules": import_modules, "kernels": compile_kernels}[sys.argv[1]]()
