"""A session from its plan to its numbers, on a golden home: what ends, what goes on, what is refused."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.artifacts import ArtifactStore
from storage.recent import write_recent
from storage.schema import CANDLE_COLUMNS, ArtifactError, StoreError, UnreachableError, VersionRef
from storage.settings import Settings
from tasks.champion.expiry import ExpiryRule
from tasks.champion.prediction import predict_history
from tasks.champion.serving import load_served
from tasks.champion.version_selector import VersionChoice, VersionSelector
from tasks.exchange.connection import ExchangeConfig
from tasks.journal.journal import Journal
from tasks.journal.journal_reader import JournalReader
from tasks.live.outcome import SessionResult
from tasks.live.run import run_session
from tasks.live.session_plan import SessionPlan, session_path
from tasks.live.session_review import review_session
from tasks.market.synthetic import generate
from tests.golden.make_golden import EXCHANGE, MARKET, restore
from tests.live.conftest import WAIT_S


@pytest.fixture
def version(home: Path) -> VersionRef:
    """The champion of a home of the test's own."""
    ref = restore(home).champion(EXCHANGE.source, MARKET.slug).ref
    assert ref is not None
    return ref


@contextmanager
def stopped_at_last() -> Iterator[None]:
    """Stop a session that does not end by itself, so that the test fails instead of waiting."""
    timer = threading.Timer(WAIT_S, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def hold(version: object, **options: Any) -> SessionResult:
    given: dict[str, Any] = {
        "exchange": EXCHANGE, "markets": [MARKET], "mode": "paper", "version": str(version), "bars": 10,
        "bar_every_s": 0.0, "name": "held",
    }  # fmt: skip
    on = {name: options.pop(name) for name in list(options) if name.startswith("on_")}
    with stopped_at_last():
        return run_session(SessionPlan(**(given | options)), Settings.from_environment(), predict_history, **on)


def test_session_of_a_longer_interval_than_the_sandbox_s_own_steps_all_its_bars(version: VersionRef) -> None:
    hours = replace(EXCHANGE, synthetic=replace(EXCHANGE.synthetic, interval_ms=MARKET.interval_ms // 4, bars=20_000))
    result = hold("champion", exchange=hours, bars=6)
    assert (result.numbers["bars"], result.numbers["unexplained"]) == (6, 0)


def test_session_on_a_candle_file_goes_on_though_what_is_left_of_it_is_shorter_than_the_session(
    home: Path, tmp_path: Path
) -> None:
    candles = generate(replace(EXCHANGE.synthetic, bars=2_000))
    pq.write_table(
        pa.table({name: getattr(candles, name) for name in ("start_ms", *CANDLE_COLUMNS)}), tmp_path / "c.parquet"
    )
    exchange = ExchangeConfig(candles=str(tmp_path / "c.parquet"))
    write_recent(Settings.from_environment().recent, exchange.source, MARKET, candles[:-20])
    hold("champion", exchange=exchange, bars=8)
    result = hold("champion", exchange=exchange, bars=20)
    assert (result.numbers["bars"], result.numbers["missing"]) == (20, 0)


def test_versions_that_watched_go_on_watching_whatever_is_newest_now(
    version: VersionRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(Settings.from_environment().models)
    model = load_served(store, version)
    with monkeypatch.context() as patch:
        patch.setattr(
            VersionSelector, "at_start", lambda selector, market, watching=None: VersionChoice(model, "", [model])
        )
        hold(version)
    result = hold(version, bars=20)
    with JournalReader.of(Path(result.journal)) as reader:
        assert [reader.decided(name) for name in (MARKET.slug, f"{MARKET.slug}@{version.version}")] == [20, 20]
    assert result.unexplained == 0


def test_champion_that_this_code_can_t_serve_holds_no_position_and_says_why(
    version: VersionRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> Any:
        raise ArtifactError("expects 99 features")

    monkeypatch.setattr("tasks.champion.version_selector.load_served", refuse)
    monkeypatch.setattr(VersionSelector, "_named", lambda selector, market: (version, "", None))
    selector = VersionSelector(store=ArtifactStore(Settings.from_environment().models), source=EXCHANGE.source)
    for chosen in (selector.at_start(MARKET), selector.refresh(MARKET, None)):
        assert (chosen.model, chosen.why_none) == (None, "the champion can't be used (expects 99 features)")
    with pytest.raises(ArtifactError, match="99 features"):
        replace(selector, version=str(version)).at_start(MARKET)


def test_real_money_follows_no_champion_of_a_rule_that_asks_for_less(version: VersionRef) -> None:
    selector = VersionSelector(
        store=ArtifactStore(Settings.from_environment().models), source=EXCHANGE.source, real_money=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VersionSelector, "_named", lambda selector, market: (version, "", None))
        for chosen in (selector.at_start(MARKET), selector.refresh(MARKET, None)):
            assert chosen.model is None
            assert chosen.why_none.startswith("the champion was promoted by a rule that asks for less: min_days ")
        assert replace(selector, real_money=False).at_start(MARKET).model is not None


@pytest.fixture
def selector(version: VersionRef, monkeypatch: pytest.MonkeyPatch) -> VersionSelector:
    """What says who decides, while the champion is in force."""
    made_ns = int(datetime.fromisoformat(version.made).timestamp()) * 10**9
    monkeypatch.setattr("tasks.champion.version_selector.time.time_ns", lambda: made_ns + 10**9)
    return VersionSelector(store=ArtifactStore(Settings.from_environment().models), source=EXCHANGE.source)


@pytest.mark.promise(15)
def test_store_that_does_not_answer_takes_no_champion_away(
    selector: VersionSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> Any:
        raise OSError(errno.ETIMEDOUT, "")

    model = selector.at_start(MARKET).model
    assert model is not None
    with monkeypatch.context() as patch:
        patch.setattr("storage.objects.read_file", refuse)
        found = selector.refresh(MARKET, model)
        assert (found.model, found.why_none) == (model, "")
        assert re.match(r"can't read .* \(Connection timed out\)", found.unknown)
        assert selector.refresh(MARKET, None).unknown == found.unknown
        with pytest.raises(UnreachableError, match="Connection timed out"):
            selector.at_start(MARKET)
    found = selector.refresh(MARKET, model)
    assert (found.model, found.unknown) == (model, "")


def test_version_is_loaded_once_for_as_long_as_it_decides(
    selector: VersionSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[VersionRef] = []
    real = ArtifactStore.load

    def load(store: ArtifactStore, ref: VersionRef, **options: Any) -> Any:
        loaded.append(ref)
        return real(store, ref, **options)

    monkeypatch.setattr(ArtifactStore, "load", load)
    model = selector.at_start(MARKET).model
    assert model is not None
    assert loaded == [model.ref]
    for _ in range(3):
        assert selector.refresh(MARKET, model).model is model
    assert loaded == [model.ref]
    assert selector.refresh(MARKET, None).model is not None
    assert loaded == [model.ref] * 2


@pytest.mark.promise(13)
@pytest.mark.parametrize(("hours", "said"), [("168", "in force"), ("1e-9", "has expired")])
def test_session_says_how_old_a_champion_may_be_and_goes_by_it(
    version: VersionRef, monkeypatch: pytest.MonkeyPatch, hours: str, said: str
) -> None:
    notes: list[str] = []
    monkeypatch.setenv("DSC_RETRAIN_HOURS", hours)
    made_ns = int(datetime.fromisoformat(version.made).timestamp()) * 10**9
    monkeypatch.setattr("tasks.champion.version_selector.time.time_ns", lambda: made_ns + 20 * 86_400 * 10**9)
    hold("champion", bars=1, on_note=notes.append)
    assert f"a champion expires after 3 missed retrains, one every {float(hours):g} hours" in notes
    assert any(said in note for note in notes) == (said != "in force")
    assert any(str(version) in note for note in notes) == (said == "in force")


def test_real_money_trusts_no_champion_for_longer_than_by_default(selector: VersionSelector) -> None:
    rule = replace(selector, expiry=ExpiryRule(retrain_hours=25.0))
    assert rule.at_start(MARKET).model is not None
    assert replace(rule, real_money=True).at_start(MARKET).why_none == (
        "a champion expires after 3 missed retrains, one every 25 hours: real money trusts none for longer than "
        "3 missed retrains, one every 24 hours"
    )


def test_session_that_never_began_has_nothing_to_review(home: Path) -> None:
    settings = Settings.from_environment()
    Journal(session_path(settings.prepare_home(), "nothing")).close()
    with pytest.raises(StoreError, match="'nothing' never began"):
        review_session(settings, "nothing", predict_history)
