"""Monitoring tasks: look at every market, show what was found, and tell somebody where its state changed."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.foreign import parse_json, read_file
from storage.schema import DamagedError
from storage.settings import Settings
from storage.whole_file import replace_file
from tasks.champion.expiry import ExpiryRule
from tasks.champion.health import MarketHealth, MonitorConfig, changes, health
from tasks.reporting.paper_record import paper_records
from tasks.runs.alerts import raise_alert
from tasks.runs.page import put_table


@task(cache_policy=NO_CACHE, task_run_name="inspect markets")
def inspect_markets(limits: MonitorConfig) -> list[MarketHealth]:
    """Look at every stored market, show it as a table in the Prefect UI, and tell somebody where its state changed."""
    settings = Settings.from_environment()
    models, now_ms = ArtifactStore(settings.models), int(time.time() * 1000)
    store = CandleStore(settings.database)
    runs = {(run.source, run.market): run for run in store.latest_runs()}
    stored, expiry = store.coverage(), ExpiryRule(retrain_hours=settings.retrain_hours)
    found = [
        health(row, models, limits, now_ms, store, settings.datasets, runs.get((row.source, row.market.slug)), expiry)
        for row in stored
    ]
    for place, row in enumerate(stored):
        try:
            records = {one.line(): one.breaches for one in paper_records(settings.home, row.source, row.market)}
        except Exception as err:  # whatever it is, the other markets are looked at
            records = {"unreadable": {"paper": f"its paper sessions can't be read ({type(err).__name__}: {err})"}}
        for line, breaches in records.items():
            found[place] = replace(found[place], paper=line, breaches={**found[place].breaches, **breaches})
    put_table("health", [market.row() for market in found], "Every stored market; the run's log says more of each")
    state = settings.prepare_home() / "monitor.json"
    before = _read_breaches(state)
    for market in found:
        for kind, change in changes(before.get(market.market, []), market.breaches).items():
            text = market.breaches[kind] if change == "raised" else f"{kind} is over"
            raise_alert(kind if change == "raised" else "recovered", market.market, text)
    _write_breaches(state, {market.market: list(market.breaches) for market in found})
    return found


def _read_breaches(path: Path) -> dict[str, list[str]]:
    try:
        breaches = parse_json(read_file(path))
    except FileNotFoundError:
        return {}
    except (OSError, DamagedError) as err:
        breaches, why = None, str(err)
    else:
        why = f"it holds {str(breaches)[:40]}"
    if isinstance(breaches, dict) and all(
        isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds) for kinds in breaches.values()
    ):
        return breaches
    # It is a memory of minutes: losing it costs one repeated alert.
    get_run_logger().warning(f"{path} is unreadable and starts anew ({why})")
    return {}


def _write_breaches(path: Path, breaches: Mapping[str, list[str]]) -> None:
    try:
        replace_file(path, json.dumps(breaches).encode())
    except OSError as err:  # what is wrong has been said already, and will be once more
        get_run_logger().warning(f"{path} can't be written ({err.strerror}); free space, or set DSC_HOME")
