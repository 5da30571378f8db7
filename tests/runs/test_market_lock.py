"""Who waits for whom, and what is tried again."""

import pytest
from prefect import flow
from prefect.states import Failed

from storage.schema import ConfigError, Market, Source, StoreBusyError
from tasks.runs import market_lock

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
