"""Champion against challenger through the real flows: who is compared on what, who wins, and the way back.

One market has its first champion; each test goes on from there in a copy of its home.
"""

import json
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter

from flows.evaluate import evaluate
from flows.pipeline import pipeline
from flows.retrain import retrain
from flows.rollback import rollback
from storage.artifacts import ArtifactStore
from storage.candles import CandleStore
from storage.results import ResultStore
from storage.schema import DAY_MS, ArtifactError, DatasetRef, Market, UnreachableError, Window
from storage.settings import Settings
from storage.written import written
from tasks import judging
from tasks.champion import judgement
from tasks.exchange.connection import ExchangeConfig
from tasks.execution.backtest import Positions
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.market.walk_forward import FoldConfig, seen_until_ms
from tasks.network.architecture import DSCConfig
from tasks.network.fit_config import FitConfig
from tasks.strategy.folds import FoldResult, fold_key
from tasks.strategy.recipe import Recipe
from tasks.strategy.samples import fold_bars, load_samples
from tests.flows.small_jobs import FEW_BASELINES, side_work_left_out
from tests.golden.make_golden import ANYTHING
from tests.storage.stored import commit_window

pytestmark = pytest.mark.long
# Four-hour bars and a signal that fades within a day: enough independent blocks of bars for a test of the lead.
MARKET = Market(interval="240")
LAW = SyntheticMarket(bars=6_500, interval_ms=MARKET.interval_ms, volatility=8e-3, k=0.3, psi=0.9)
EXCHANGE = ExchangeConfig(synthetic=LAW)
NETWORK = DSCConfig(hidden_channels=4, num_blocks=1, window=8, linear_bypass=True)


def recipe(seed: int, **changes) -> Recipe:
    fit = FitConfig(epochs=1, seed=seed, distil=0.0)
    small = {"folds": FoldConfig(folds=2), "network": NETWORK, "baselines": FEW_BASELINES}
    return Recipe(fit=fit, promotion=ANYTHING, **small, **changes)


@pytest.fixture(scope="module")
def first(prefect_api, tmp_path_factory):
    """A first champion, promoted over flat: its home and its verdict."""
    home = tmp_path_factory.mktemp("reign") / "home"
    with side_work_left_out(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSC_HOME", str(home))
        patch.delenv("DSC_ARTIFACT_URL", raising=False)
        return home, pipeline(market=MARKET, exchange=EXCHANGE, recipe=recipe(seed=1))


@pytest.fixture
def reign(first, home):
    """The verdict of the first champion, in a home of the test's own where it is in force."""
    shutil.copytree(first[0], home)
    with side_work_left_out():
        yield first[1]


def store() -> ArtifactStore:
    return ArtifactStore(Settings.from_environment().models)


@pytest.mark.promise(13)
def test_challenger_that_passes_becomes_champion_with_both_sides_on_record(reign):
    assert reign.promoted
    entry = store().champion(EXCHANGE.source, MARKET.slug)
    assert entry.ref == reign.version
    assert entry.evidence["beaten"] == "flat"
    assert entry.evidence["champion"]["num_trades"] == 0
    assert entry.evidence["challenger"]["total_return"] > 0


@pytest.mark.promise(13)
def test_promotion_is_of_a_recipe_that_earns_with_a_second_seed_and_publishes_the_first(reign):
    judged, trained = reign.manifest.judgement, recipe(seed=1)
    data = DatasetRef(id=reign.manifest.dataset, source=EXCHANGE.source, market=MARKET)
    check = judged.checks[-1]
    earned, first_earned = judged.numbers.second_seed.total_return, judged.numbers.challenger.total_return
    assert (check.name, check.passed, earned > 0) == ("second seed: net result", True, True)
    assert check.found == f"{written(earned, 'signed share')}, first seed {written(first_earned, 'signed share')}"
    # Decided by the last fold of the second seed, and published from that of the first.
    work = ResultStore(Settings.from_environment().work)
    bars = fold_bars(load_samples(Settings.from_environment().datasets, data, trained), trained, 1).digest
    first, second = (work.load(fold_key(bars, one), FoldResult) for one in (trained, trained.second_seed))
    weights = store().load(reign.version, source=EXCHANGE.source).files["weights.safetensors"]
    assert first.weights == weights != second.weights
    assert len(work_keys("fold")) == 4
    assert len(work_keys("baselines")) == 2  # neither baselines nor twin a second time
    assert "second seed: net result" in store().read(reign.version, "report.html").decode()
    assert evaluate(version=str(reign.version)).differences == ()


@pytest.mark.promise(13)
def test_second_seed_is_not_trained_when_another_condition_fails(reign):
    before = work_keys("fold")
    strict = replace(recipe(seed=1), promotion=replace(ANYTHING, min_days=9_999.0))
    verdict = pipeline(market=MARKET, exchange=EXCHANGE, recipe=strict)
    check = verdict.manifest.judgement.checks[-1]
    assert (check.passed, check.found) == (None, "not run: other conditions failed")
    assert work_keys("fold") == before
    assert "second seed" not in verdict.reason
    assert "unseen days" in verdict.reason


@pytest.mark.promise(13)
def test_second_seed_that_loses_keeps_the_champion(reign, monkeypatch):
    monkeypatch.setattr(judgement, "duel", second_seed_reversed(judgement.duel))
    weights = store().load(reign.version, source=EXCHANGE.source).files["weights.safetensors"]
    while store().champion(EXCHANGE.source, MARKET.slug).ref is not None:
        rollback(market=MARKET, exchange=EXCHANGE, reason="to judge the same weights anew")
    looser = replace(recipe(seed=1), promotion=replace(ANYTHING, min_days=1e-6))  # another version, of the same folds
    verdict = pipeline(market=MARKET, exchange=EXCHANGE, recipe=looser)
    assert (verdict.promoted, verdict.champion) == (False, "flat")
    assert verdict.reason == "kept flat; failed: second seed: net result"
    assert store().load(verdict.version, source=EXCHANGE.source).files["weights.safetensors"] == weights


@pytest.mark.promise(13)
def test_version_whose_page_says_that_it_was_kept_out_is_not_promoted_by_a_second_judgement(reign, monkeypatch):
    rollback(market=MARKET, exchange=EXCHANGE, reason="to judge the same weights anew")
    looser = replace(recipe(seed=1), promotion=replace(ANYTHING, min_days=1e-6))  # another version, of the same folds
    with monkeypatch.context() as patch:
        patch.setattr(judgement, "duel", second_seed_reversed(judgement.duel))
        first = pipeline(market=MARKET, exchange=EXCHANGE, recipe=looser)
    with monkeypatch.context() as patch:
        patch.setattr(judgement, "read_manifest", no_answer)
        with pytest.raises(UnreachableError, match="does not answer"):
            pipeline(market=MARKET, exchange=EXCHANGE, recipe=looser)
    again = pipeline(market=MARKET, exchange=EXCHANGE, recipe=looser)
    assert (again.version, again.promoted, again.champion) == (first.version, False, "flat")
    assert again.reason == "kept flat; failed: no earlier verdict against it"
    assert store().champion(EXCHANGE.source, MARKET.slug).ref is None
    assert not again.manifest.judgement.passed


@pytest.mark.promise(13)
def test_champion_that_a_person_rolled_back_does_not_return_by_a_retrain_on_the_same_bars(reign):
    rollback(market=MARKET, exchange=EXCHANGE, reason="it loses")
    again = pipeline(market=MARKET, exchange=EXCHANGE, recipe=recipe(seed=1))
    assert (again.version, again.promoted, again.champion) == (reign.version, False, "flat")
    assert again.reason == "kept flat; failed: no earlier verdict against it"
    (check,) = (one for one in again.checks if one.passed is False)
    assert check.found == f"{reign.version.version} was the champion before; retrain on newer bars"
    assert store().champion(EXCHANGE.source, MARKET.slug).ref is None


@pytest.mark.promise(13)
def test_verdict_of_a_run_that_died_before_it_published_counts_and_counts_once(reign, monkeypatch):
    def judged(seed: int):
        return retrain(market=MARKET, exchange=EXCHANGE, recipe=recipe(seed)).manifest.judgement

    def wanted(judgement) -> str:
        (check,) = (one for one in judgement.checks if one.name.startswith("beats the champion"))
        return check.wanted

    with monkeypatch.context() as patch:
        patch.setattr("flows.retrain.publish_version", died)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                judged(seed=2)
    assert wanted(judged(seed=3)) == "greater, p < 0.5, look 2"
    assert wanted(judged(seed=2)) == "greater, p < 0.5, look 2"  # it goes on; its own verdict is no further one


def died(*of):
    raise KeyboardInterrupt


def no_answer(*of):
    raise UnreachableError("the store does not answer")


def second_seed_reversed(duel):
    """Return the duel in which the second seed is on the wrong side all the time."""

    def other(*sides, second, **rest):
        return duel(*sides, second=None if second is None else Positions(-second.target), **rest)

    return other


def work_keys(kind: str) -> set[str]:
    work = Settings.from_environment().home / "work"
    return {path.name for path in work.iterdir() if path.name.startswith(f"{kind}-")}


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

    real, decide, sides = judgement.duel, judgement.decide_span, []
    monkeypatch.setattr(judgement, "duel", spy)
    monkeypatch.setattr(judgement, "decide_span", decided)
    verdict = pipeline(market=MARKET, exchange=EXCHANGE, recipe=recipe(seed=2))
    samples = load_samples(
        Settings.from_environment().datasets,
        DatasetRef(id=reign.manifest.dataset, source=EXCHANGE.source, market=MARKET),
        recipe(seed=2),
    )
    last_test = samples.dataset.candles.start_ms[samples.folds[-1].test.rows]
    # The champion's weights are its last fold's: only that fold's test bars are new to it, and all of them are.
    assert seen["bars"].start_ms[0] > seen_until_ms(reign.manifest.training_end)
    assert seen["bars"].start_ms[0] <= last_test[0]
    assert seen["bars"].start_ms[-1] == last_test[-1]
    assert len(seen["challenger"].target) == len(seen["champion"].target) == len(seen["bars"])
    # All decide from flat on one span: none carries a position in.
    assert len({span for span, _ in sides}) == 1
    decided = [target for _, target in sides]
    assert all(any(seen[who] is target for target in decided) for who in ("champion", "challenger"))
    assert verdict.version != reign.version


@pytest.mark.promise(13)
def test_champion_that_knew_every_bar_leaves_nothing_to_compare_on_and_is_kept(reign):
    entry = store().champion(EXCHANGE.source, MARKET.slug)
    refit = pipeline(market=MARKET, exchange=EXCHANGE, recipe=recipe(seed=3, refit=True))
    if not refit.promoted:
        numbers = asdict(refit.manifest.judgement.numbers)
        now = datetime.now(UTC)
        store().promote(EXCHANGE.source, MARKET.slug, refit.version, numbers, expected=entry.sequence, now=now)
    after = pipeline(market=MARKET, exchange=EXCHANGE, recipe=recipe(seed=4))
    assert not after.promoted
    assert after.champion == refit.version.version
    failed = {check.name for check in after.manifest.judgement.checks if not check.passed}
    assert {"unseen days", f"beats the champion ({refit.version.version})"} <= failed


@pytest.mark.promise(13)
def test_old_bars_of_an_exchange_promote_nothing_and_newer_ones_do(prefect_api, small_jobs, home, monkeypatch):
    """Spot, as no funding is due there; a clock of two days after the last bar, and then one millisecond later."""
    market, bybit, bars = replace(MARKET, category="spot"), ExchangeConfig(exchange="bybit"), generate(LAW)
    span = Window(first_ms=int(bars.start_ms[0]), last_ms=int(bars.start_ms[-1]))
    closed_ms = span.last_ms + market.interval_ms
    home.mkdir()
    commit_window(CandleStore(home / "market.duckdb"), bybit.source, market, span, bars, (), closed_ms)
    verdicts = []
    for seed, age_ms in ((1, 2 * DAY_MS + 1), (2, 2 * DAY_MS)):
        now_ns = (closed_ms + age_ms) * 1_000_000
        monkeypatch.setattr(judging, "time", SimpleNamespace(time_ns=lambda now_ns=now_ns: now_ns))
        verdicts.append(retrain(market=market, exchange=bybit, recipe=recipe(seed=seed)))
    old, new = verdicts
    assert (old.promoted, old.failed, old.champion) == (False, ("bars up to date",), "flat")
    assert (new.promoted, new.failed, new.champion) == (True, (), new.version.version)


@pytest.mark.promise(13)
def test_rollback_is_one_command_and_ends_at_flat(reign, capsys):
    while store().champion(EXCHANGE.source, MARKET.slug).ref is not None:
        lines = rollback(market=MARKET, exchange=EXCHANGE, reason="a test of the way back")
    assert lines[0].split()[2] == "flat"
    assert "a test of the way back" in capsys.readouterr().out
    with get_client(sync_client=True) as client:
        shown = client.read_artifacts(artifact_filter=ArtifactFilter(key={"like_": "champions-sandbox-"}))
    newest = json.loads(max(shown, key=lambda one: one.created).data)
    assert (newest[0]["champion"], newest[0]["why"]) == ("flat", "a test of the way back")
    assert [row["champion"] for row in newest[::-1]] == [line.split()[2] for line in lines]
    with pytest.raises(ArtifactError, match="the champion is flat, the first one"):
        rollback(market=MARKET, exchange=EXCHANGE, reason="further back")
