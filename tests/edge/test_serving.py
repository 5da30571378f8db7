"""Serving: flat and expired champions open no position."""

from datetime import UTC, datetime, timedelta

import pytest

from storage.artifacts import ArtifactStore
from storage.schema import FEATURES, Source
from tasks.execution.expiry import ExpiryRule
from tasks.serving import served_champion

SOURCE, NAME, RULE = Source("bybit"), "linear-BTCUSDT-5", ExpiryRule()
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
EVIDENCE = {"champion": {"version": "flat"}, "challenger": {"sharpe_ratio": 1.0}}


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def published(store: ArtifactStore, hash8: str, now: datetime):
    return store.publish(SOURCE, NAME, hash8, {"report.html": hash8.encode()}, {"features": list(FEATURES)}, now)


@pytest.mark.promise(13)
def test_nothing_is_served_when_the_champion_is_flat(tmp_path):
    store = ArtifactStore(str(tmp_path))
    published(store, "0123abcd", MONDAY)
    served = served_champion(store, SOURCE, NAME, ms(MONDAY), RULE)
    assert (served.ref, served.reason) == (None, "the champion is flat")


@pytest.mark.promise(13)
def test_champion_is_served_until_the_third_retrain_is_missed(tmp_path):
    store = ArtifactStore(str(tmp_path))
    ref = published(store, "0123abcd", MONDAY)
    store.promote(SOURCE, NAME, ref, EVIDENCE, expected=0, now=MONDAY)
    assert served_champion(store, SOURCE, NAME, ms(MONDAY + timedelta(days=2.9)), RULE).ref == ref
    expired = served_champion(store, SOURCE, NAME, ms(MONDAY + timedelta(days=3)), RULE)
    assert expired.ref is None
    assert expired.reason == (
        "champion 20260105T000000Z-0123abcd has expired: 3 retrains missed, 3 are too many; run retrain"
    )


@pytest.mark.promise(13)
def test_retrain_that_keeps_the_champion_renews_it(tmp_path):
    store = ArtifactStore(str(tmp_path))
    ref = published(store, "0123abcd", MONDAY)
    store.promote(SOURCE, NAME, ref, EVIDENCE, expected=0, now=MONDAY)
    published(store, "4567abcd", MONDAY + timedelta(days=2))  # a challenger that was not promoted
    assert served_champion(store, SOURCE, NAME, ms(MONDAY + timedelta(days=4.9)), RULE).ref == ref
