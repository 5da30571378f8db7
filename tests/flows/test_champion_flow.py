"""Champion against challenger through the real flows: who is compared on what, who wins, and the way back."""

from datetime import UTC, datetime

import pytest

from flows.pipeline import pipeline
from flows.rollback import rollback
from storage.artifacts import ArtifactStore
from storage.schema import ArtifactError, DatasetRef, Market
from tasks import publishing
from tasks.connection import ExchangeConfig
from tasks.market.samples import FoldConfig
from tasks.market.synthetic import SyntheticMarket
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.recipe import Recipe
from tasks.training import load_samples
from tests.golden.make_golden import ANYTHING

# Four-hour bars and a signal that fades within a day: enough independent blocks of bars for a test of the lead.
MARKET = Market(interval="240")
LAW = SyntheticMarket(bars=6_500, interval_ms=MARKET.interval_ms, volatility=8e-3, k=0.3, psi=0.9)
EXCHANGE = ExchangeConfig(synthetic=LAW)
NETWORK = DSCConfig(hidden_channels=4, num_blocks=1, window=8, linear_bypass=True)


def recipe(seed: int, **changes) -> Recipe:
    fit = FitConfig(epochs=1, seed=seed)
    return Recipe(folds=FoldConfig(folds=2), network=NETWORK, fit=fit, promotion=ANYTHING, **changes)


@pytest.fixture(scope="module")
def reign(prefect_api, twins_untimed, tmp_path_factory):
    """A first champion, promoted over flat."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSC_HOME", str(tmp_path_factory.mktemp("reign") / "home"))
        patch.delenv("DSC_ARTIFACT_URL", raising=False)
        yield pipeline(market=MARKET, exchange=EXCHANGE, recipe=recipe(seed=1))


def store() -> ArtifactStore:
    return ArtifactStore(publishing.Settings.from_environment().artifact_url)


@pytest.mark.promise(13)
def test_challenger_that_passes_becomes_champion_with_both_sides_on_record(reign):
    assert reign.promoted
    entry = store().champion(EXCHANGE.source, MARKET.slug)
    assert entry.ref == reign.version
    assert entry.evidence["champion"]["version"] == "flat"
    assert entry.evidence["challenger"]["total_return"] > 0


@pytest.mark.promise(12)
@pytest.mark.promise(13)
def test_champion_and_challenger_are_compared_on_bars_that_neither_has_seen(reign, monkeypatch):
    seen = {}

    def spy(bars, challenger, champion, *args, **kwargs):
        seen.update(kwargs, bars=bars, challenger=challenger, champion=champion)
        return real(bars, challenger, champion, *args, **kwargs)

    def decided(samples, rule, span, *args):
        sides.append((span, decide(samples, rule, span, *args)))
        return sides[-1][1]

    real, decide, sides = publishing.duel, publishing.decide_span, []
    monkeypatch.setattr(publishing, "duel", spy)
    monkeypatch.setattr(publishing, "decide_span", decided)
    verdict = pipeline(market=MARKET, exchange=EXCHANGE, recipe=recipe(seed=2))
    manifest = store().manifest(reign.version)
    facts = manifest["model"]
    samples = load_samples(DatasetRef(id=manifest["dataset"], source=EXCHANGE.source, market=MARKET), recipe(seed=2))
    last_test = samples.dataset.candles.start_ms[samples.folds[-1].test.rows]
    # The champion's weights are its last fold's: only that fold's test bars are new to it, and all of them are.
    assert seen["bars"].start_ms[0] > facts["trained_until_ms"] + facts["label_span_ms"]
    assert seen["bars"].start_ms[0] <= last_test[0]
    assert seen["bars"].start_ms[-1] == last_test[-1]
    assert len(seen["challenger"]) == len(seen["champion"]) == len(seen["bars"])
    # Both decide from flat on one span: neither carries a position in.
    (champions, champion), (challengers, challenger) = sides
    assert champions == challengers
    assert seen["champion"] is champion
    assert seen["challenger"] is challenger
    assert verdict.version != reign.version


@pytest.mark.promise(13)
def test_champion_that_knew_every_bar_leaves_nothing_to_compare_on_and_is_kept(reign):
    entry = store().champion(EXCHANGE.source, MARKET.slug)
    refit = pipeline(market=MARKET, exchange=EXCHANGE, recipe=recipe(seed=3, refit=True))
    if not refit.promoted:
        numbers = store().manifest(refit.version)["judgement"]["numbers"]
        now = datetime.now(UTC)
        store().promote(EXCHANGE.source, MARKET.slug, refit.version, numbers, expected=entry.sequence, now=now)
    after = pipeline(market=MARKET, exchange=EXCHANGE, recipe=recipe(seed=4))
    assert not after.promoted
    assert after.champion == refit.version.version
    failed = {c["name"] for c in store().manifest(after.version)["judgement"]["checks"] if not c["passed"]}
    assert {"unseen days", f"beats the champion ({refit.version.version})"} <= failed


@pytest.mark.promise(13)
def test_rollback_is_one_command_and_ends_at_flat(reign, capsys):
    while store().champion(EXCHANGE.source, MARKET.slug).ref is not None:
        lines = rollback(market=MARKET, exchange=EXCHANGE, reason="a test of the way back")
    assert lines[0].split()[2] == "flat"
    assert "a test of the way back" in capsys.readouterr().out
    with pytest.raises(ArtifactError, match="the champion is flat, the first one"):
        rollback(market=MARKET, exchange=EXCHANGE, reason="further back")
