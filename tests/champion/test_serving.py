"""Serving: flat and expired champions open no position; what is served decides as it was published."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch

from storage.artifacts import ArtifactStore
from storage.schema import ArtifactError, Source
from tasks.champion.expiry import ExpiryRule
from tasks.champion.promotion import Check
from tasks.champion.serving import load_served, served_champion
from tasks.execution.accounting import Costs
from tasks.market.features import WARM_UP, build_features
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.architecture import DSCConfig
from tasks.network.dsc import DSCTradingModel
from tasks.network.export import weights_bytes
from tasks.network.fit import predict_series
from tasks.strategy.recipe import Recipe, decision_params
from tests.champion.example_manifest import MANIFEST, judged_against

SOURCE, NAME, RULE = Source("bybit"), "linear-BTCUSDT-5", ExpiryRule()
MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
EVIDENCE = {"champion": {"version": "flat"}, "challenger": {"sharpe_ratio": 1.0}}


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def published(store: ArtifactStore, hash8: str, now: datetime, sequence: int = 1):
    manifest = judged_against(sequence, trained_until_ms=ms(now))
    return store.publish(SOURCE, NAME, hash8, {"report.html": hash8.encode()}, manifest.document(), now)


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


@pytest.mark.promise(13)
@pytest.mark.parametrize(
    ("days", "trained_until_day", "sequence"),
    [(2, -400, 1), (2, 0, 1), (2, 2, 0)],
    ids=["on old bars", "on the champion's bars", "against an earlier champion"],
)
def test_version_that_did_not_question_the_champion_on_newer_bars_renews_nothing(
    tmp_path, days, trained_until_day, sequence
):
    store = ArtifactStore(str(tmp_path))

    def stored(hash8: str, day: int, bar_day: int, judged: int):
        until = ms(MONDAY + timedelta(days=bar_day))
        manifest = judged_against(judged, trained_until_ms=until)
        return store.publish(SOURCE, NAME, hash8, {"a.txt": b"a"}, manifest.document(), MONDAY + timedelta(days=day))

    ref = stored("0123abcd", 0, 0, 0)
    store.promote(SOURCE, NAME, ref, EVIDENCE, expected=0, now=MONDAY)
    stored("4567abcd", days, trained_until_day, sequence)
    assert served_champion(store, SOURCE, NAME, ms(MONDAY + timedelta(days=3)), RULE).ref is None
    stored("89ababcd", 2, 2, 1)
    assert served_champion(store, SOURCE, NAME, ms(MONDAY + timedelta(days=3)), RULE).ref == ref


@pytest.mark.promise(13)
@pytest.mark.parametrize(("is_up_to_date", "renewed"), [(False, False), (True, True)])
def test_retrain_on_newer_bars_that_are_not_of_the_present_renews_nothing(tmp_path, is_up_to_date, renewed):
    """Each day one day more of two years ago: newer than the champion's bars, and nothing to do with today's."""
    store, years = ArtifactStore(str(tmp_path)), timedelta(days=730)

    def stored(hash8: str, day: int, sequence: int, passed: bool):
        check = Check(name="bars up to date", passed=passed, found="730.00 days old", wanted="<= 2 days")
        now = MONDAY + timedelta(days=day)
        manifest = judged_against(sequence, trained_until_ms=ms(now - years))
        manifest = replace(manifest, judgement=replace(manifest.judgement, checks=(check,)))
        return store.publish(SOURCE, NAME, hash8, {"a.txt": b"a"}, manifest.document(), now)

    ref = stored("0123abcd", 0, 0, True)
    store.promote(SOURCE, NAME, ref, EVIDENCE, expected=0, now=MONDAY)
    for day, hash8 in ((1, "4567abcd"), (2, "89ababcd")):
        stored(hash8, day, 1, is_up_to_date)
    served = served_champion(store, SOURCE, NAME, ms(MONDAY + timedelta(days=3)), RULE)
    assert served.ref == (ref if renewed else None)


@pytest.mark.promise(13)
def test_champion_that_a_person_put_in_force_again_is_served_from_then_on(tmp_path):
    store = ArtifactStore(str(tmp_path))
    first = published(store, "0123abcd", MONDAY)
    store.promote(SOURCE, NAME, first, EVIDENCE, expected=0, now=MONDAY)
    second = published(store, "4567abcd", MONDAY + timedelta(days=30))
    store.promote(SOURCE, NAME, second, EVIDENCE, expected=1, now=MONDAY + timedelta(days=30))
    store.rollback(SOURCE, NAME, "the second one lost money", MONDAY + timedelta(days=31))
    assert served_champion(store, SOURCE, NAME, ms(MONDAY + timedelta(days=33.9)), RULE).ref == first
    assert served_champion(store, SOURCE, NAME, ms(MONDAY + timedelta(days=34)), RULE).ref is None


WRONG = datetime(2099, 1, 1, tzinfo=UTC)
"""What a clock said during one retrain."""


@pytest.mark.promise(19)
def test_champion_that_was_kept_while_the_clock_was_wrong_is_served_as_if_nobody_had_asked(tmp_path):
    store = ArtifactStore(str(tmp_path))
    ref = published(store, "0123abcd", MONDAY)
    store.promote(SOURCE, NAME, ref, EVIDENCE, expected=0, now=MONDAY)
    manifest = judged_against(1, trained_until_ms=ms(MONDAY + timedelta(days=1)))
    store.publish(SOURCE, NAME, "4567abcd", {"a.txt": b"a"}, manifest.document(), WRONG)
    assert served_champion(store, SOURCE, NAME, ms(MONDAY + timedelta(days=2.9)), RULE).ref == ref
    assert served_champion(store, SOURCE, NAME, ms(MONDAY + timedelta(days=3)), RULE).ref is None
    published(store, "89ababcd", MONDAY + timedelta(days=2))
    assert served_champion(store, SOURCE, NAME, ms(MONDAY + timedelta(days=4.9)), RULE).ref == ref


@pytest.mark.promise(19)
def test_champion_of_a_clock_that_was_wrong_is_recovered_by_one_command(tmp_path):
    store = ArtifactStore(str(tmp_path))
    first, tuesday = published(store, "0123abcd", MONDAY), MONDAY + timedelta(days=1)
    store.promote(SOURCE, NAME, first, EVIDENCE, expected=0, now=MONDAY)
    manifest = judged_against(1, trained_until_ms=ms(tuesday))
    second = store.publish(SOURCE, NAME, "4567abcd", {"a.txt": b"a"}, manifest.document(), WRONG)
    store.promote(SOURCE, NAME, second, EVIDENCE, expected=1, now=WRONG)
    refused = served_champion(store, SOURCE, NAME, ms(tuesday), RULE)
    assert refused.ref is None
    assert refused.reason.endswith("if it was wrong then, roll back (flows.rollback)")
    store.rollback(SOURCE, NAME, "the clock was wrong", tuesday)
    assert served_champion(store, SOURCE, NAME, ms(tuesday + timedelta(days=2.9)), RULE).ref == first
    # The same version again, judged under a clock that is right: it keeps its name, and is served by the day it won.
    store.promote(SOURCE, NAME, second, EVIDENCE, expected=3, now=tuesday)
    assert served_champion(store, SOURCE, NAME, ms(tuesday + timedelta(days=2.9)), RULE).ref == second
    published(store, "89ababcd", tuesday + timedelta(days=2), sequence=4)
    assert served_champion(store, SOURCE, NAME, ms(tuesday + timedelta(days=4.9)), RULE).ref == second


@pytest.mark.promise(5)
def test_served_version_decides_with_its_own_weights_rule_and_costs(tmp_path):
    network = DSCConfig(hidden_channels=4, num_blocks=1, window=4, linear_bypass=True)
    recipe = Recipe(network=network, costs=Costs(commission=0.0, slippage=0.0)).resolved
    manifest = replace(MANIFEST, recipe=recipe, class_means=(-2.0, 0.1, 3.0))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = DSCTradingModel(network).eval()
    store = ArtifactStore(str(tmp_path))
    files = {"weights.safetensors": weights_bytes(model)}
    ref = store.publish(SOURCE, manifest.market.slug, "0123abcd", files, manifest.document(), MONDAY)
    served = load_served(store, ref)
    np.testing.assert_array_equal(served.params, decision_params(recipe, manifest.market, np.array([-2.0, 0.1, 3.0])))
    candles = generate(SyntheticMarket(bars=WARM_UP + network.context + 3))
    live, built = served.tick(), build_features(candles.matrix(), served.market.interval_ms)
    found = [live.step(candle).probabilities for candle in candles.matrix()][-1]
    np.testing.assert_allclose(found, predict_series(model, built.values, built.segment)[-1], atol=1e-5)


@pytest.mark.promise(19)
def test_other_weights_that_are_put_in_place_after_the_entry_was_read_are_refused(tmp_path):
    store = ArtifactStore(str(tmp_path))
    ref = published(store, "0123abcd", MONDAY)
    store.promote(SOURCE, NAME, ref, EVIDENCE, expected=0, now=MONDAY)
    served = served_champion(store, SOURCE, NAME, ms(MONDAY), RULE)
    other = ArtifactStore(str(tmp_path / "elsewhere"))
    store.load(ref, source=SOURCE, seal=served.seal)
    published(other, "0123abcd", MONDAY, sequence=2)  # as whole as the one before, and another
    (mine,), (theirs,) = (list(folder.rglob(ref.version)) for folder in (tmp_path / "bybit", tmp_path / "elsewhere"))
    for file in theirs.iterdir():
        (mine / file.name).write_bytes(file.read_bytes())
    store.load(ref, source=SOURCE)
    with pytest.raises(ArtifactError, match="was exchanged after its promotion"):
        load_served(store, ref, served.seal)
