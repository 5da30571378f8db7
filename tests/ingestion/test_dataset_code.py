"""A dataset says which formulas made its features."""

import shutil

import pytest

from storage.candles import CandleStore
from storage.schema import Market, Source, Window
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.dataset import make_dataset
from tasks.ingestion.quality import QualityConfig
from tasks.market import features
from tasks.market.synthetic import SyntheticMarket, generate
from tests.storage.stored import commit_window

SOURCE, MARKET = Source("sandbox:0123abcd"), Market(interval="5")


@pytest.mark.promise(3)
def test_dataset_is_of_the_formulas_that_were_loaded_when_their_file_is_edited_during_the_run(tmp_path, monkeypatch):
    candles = generate(SyntheticMarket(bars=features.WARM_UP + 10))
    window, store = Window(first_ms=int(candles.start_ms[0]), last_ms=int(candles.start_ms[-1])), tmp_path / "db"
    commit_window(CandleStore(store), SOURCE, MARKET, window, candles, (), window.last_ms + MARKET.interval_ms)

    def made():
        return make_dataset(CandleStore(store), tmp_path, SOURCE, MARKET, BarRange(), QualityConfig())[0]

    before = made()
    edited = shutil.copy(features.__file__, tmp_path / "features.py")
    edited.write_text(edited.read_text() + "CHANGED = True\n")
    monkeypatch.setattr(features, "__file__", str(edited))
    assert made() == before
