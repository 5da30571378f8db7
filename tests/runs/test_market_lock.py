"""Who waits for whom, and what is tried again."""

import io
import os
from types import SimpleNamespace

import pytest
from prefect import flow
from prefect.states import Failed

from storage.schema import ConfigError, Market, Source, StoreBusyError
from tasks.runs import market_lock
from tasks.runs.display import showing

SOURCE, MARKET = Source("bybit"), Market(symbol="BTCUSDT")


@pytest.mark.parametrize(
    ("error", "deployed", "again"),
    [
        (StoreBusyError("held"), True, True),
        (StoreBusyError("held"), False, False),
        (ConfigError("no"), True, False),
        (ValueError("no"), True, False),
    ],
)
def test_only_a_temporary_error_of_a_deployment_is_tried_again(monkeypatch, error, deployed, again):
    monkeypatch.setattr(market_lock.deployment, "id", "one" if deployed else None, raising=False)
    assert market_lock.may_pass_later(None, None, Failed(data=error)) is again


def test_second_retrain_of_a_market_waits_and_one_of_another_market_does_not(prefect_api, home, monkeypatch):
    monkeypatch.setattr(market_lock, "RETRAIN_WAIT_S", 0.0)

    @flow
    def two() -> None:
        with market_lock.one_retrain_at_a_time(SOURCE, MARKET):
            with market_lock.one_retrain_at_a_time(SOURCE, Market(symbol="ETHUSDT")):
                pass
            with market_lock.one_retrain_at_a_time(SOURCE, MARKET):
                pytest.fail("two retrains of one market")

    with pytest.raises(StoreBusyError, match="retraining BTCUSDT linear 5m from bybit must be one at a time"):
        two()


def test_retrain_that_waits_for_another_one_says_so_to_whoever_watches(prefect_api, home, monkeypatch):
    monkeypatch.setattr(market_lock, "RETRAIN_WAIT_S", 0.0)
    shown = io.StringIO()

    @flow
    def waits() -> None:
        with (
            showing(shown),
            market_lock.one_retrain_at_a_time(SOURCE, MARKET),
            market_lock.one_retrain_at_a_time(SOURCE, MARKET),
        ):
            pytest.fail("two retrains of one market")

    clock = iter([0.0, 0.0, 0.0, 1.0])
    monkeypatch.setattr("storage.locks.time", SimpleNamespace(monotonic=clock.__next__, sleep=lambda seconds: None))
    with pytest.raises(StoreBusyError, match="must be one at a time"):
        waits()
    assert f"waiting: retraining BTCUSDT linear 5m from bybit is held by process {os.getpid()}" in shown.getvalue()
