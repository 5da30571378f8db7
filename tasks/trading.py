"""Trading task: one session from its first bar to its summary, and what a backtest says of the same bars."""

from __future__ import annotations

import json
import sys

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.artifacts import ArtifactStore
from storage.schema import FloatArray, IntArray, Market
from storage.settings import Settings
from tasks.champion.serving import ServedModel
from tasks.exchange.connection import ExchangeConfig
from tasks.live.journal import Decision
from tasks.live.market_session import MarketSession
from tasks.live.outcome import SessionResult, signal_line
from tasks.live.run import SessionPlan, run_session
from tasks.live.versions import newest_version
from tasks.network.dsc import load_model
from tasks.network.inference import predict_series
from tasks.runs.display import advance, say


@task(cache_policy=NO_CACHE, task_run_name="{plan.mode} session")
def hold_session(plan: SessionPlan) -> SessionResult:
    """Step markets as their bars close, until so many have or somebody stops it; then replay them.

    Raises:
        StoreBusyError: Another process has a session of one of the markets.
        StoreError: The session's journal can't be written, or is of another session.
    """
    settings = Settings.from_environment()

    def tell(session: MarketSession, decision: Decision) -> None:
        if plan.mode == "signal":
            print(json.dumps(signal_line(session, decision)), flush=True)
        elif plan.most_bars:
            advance(session.counts.stepped / plan.most_bars, f"{session.own.traded} fills")

    def tell_stop() -> None:
        line = "stopping after the present bar ..."
        print(line, file=sys.stderr) if plan.mode == "signal" else say(line)

    result = run_session(plan, settings, _predict, on_decision=tell, on_note=get_run_logger().info, on_stop=tell_stop)
    if plan.mode == "paper":
        (settings.home / "paper.json").write_text(json.dumps(result.numbers, indent=1) + "\n")
    return result


def lacks_a_version(exchange: ExchangeConfig, market: Market) -> bool:
    """Return whether no version of a market is stored."""
    store = ArtifactStore(Settings.from_environment().artifact_url)
    return newest_version(store, exchange.source, market) is None


def _predict(model: ServedModel, features: FloatArray, segment: IntArray) -> FloatArray:
    return predict_series(load_model(model.recipe.network_config, model.weights), features, segment)
