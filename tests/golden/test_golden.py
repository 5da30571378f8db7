"""What an earlier day stored loads today: the champion is served, and its numbers come out again."""

from datetime import UTC, datetime

import pytest

from flows.evaluate import evaluate
from storage.artifacts import FORMAT
from tasks.champion.expiry import ExpiryRule
from tasks.champion.manifest import Manifest
from tasks.champion.serving import load_served, served_champion
from tasks.reporting.panel import read_panel
from tests.golden.make_golden import EXCHANGE, MARKET, restore


@pytest.fixture(params=range(1, FORMAT + 1), ids="format-{}".format)
def golden(home, request):
    """A home restored from the back-up of each format."""
    return restore(home, request.param)


@pytest.mark.promise(8)
def test_golden_champion_is_served(golden):
    entry = golden.champion(EXCHANGE.source, MARKET.slug)
    day_after = int(datetime.fromisoformat(entry.at).astimezone(UTC).timestamp() * 1000) + 86_400_000
    served = served_champion(golden, EXCHANGE.source, MARKET.slug, day_after, ExpiryRule())
    assert served.ref == entry.ref
    artifact = golden.load(entry.ref, source=EXCHANGE.source)
    manifest, served_model = Manifest.of(artifact.manifest, entry.ref), load_served(golden, entry.ref)
    assert served_model.market == manifest.market == MARKET
    assert served_model.tick().history_bars > manifest.recipe.network_config.context


def test_golden_version_stands_among_all_markets(golden):
    (row,) = read_panel(golden, EXCHANGE.source, datetime.now(UTC)).rows
    assert (row.error, row.versions, row.facts.folds) == ("", 1, 2)
    assert row.facts.lead_adjusted == row.facts.lead_p  # the only market


@pytest.mark.promise(8)
def test_golden_version_gives_its_numbers_again(golden, prefect_api):
    ref = golden.champion(EXCHANGE.source, MARKET.slug).ref
    again = evaluate(version=str(ref))
    assert (again.differences, again.parity < 1e-5) == ((), True)
