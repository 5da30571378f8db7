"""The end of a run of many markets: a page of them all in the home, and a table in the Prefect UI."""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from storage.artifacts import ArtifactStore
from tasks.fan_out import Outcomes
from tasks.publishing import show_panel
from tests.reporting.example_panel import SANDBOX, four_markets


@flow
def compared() -> str:
    return show_panel(SANDBOX)


def table() -> list[dict[str, str]]:
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["all-markets-sandbox-0123abcd"]))
        newest = max(client.read_artifacts(artifact_filter=wanted), key=lambda shown: shown.created)
    assert "of 4 markets 1 lead by more than luck, 1 in direction" in newest.description
    return json.loads(newest.data)


def test_markets_are_set_side_by_side_on_a_page_and_in_a_table(prefect_api, home):
    four_markets(ArtifactStore(str(home / "models")))
    place = Path(compared())
    assert place == home / "markets-sandbox-0123abcd.html"
    page = place.read_text(encoding="utf-8")
    (bitcoin,) = re.findall(r'href="(file://[^"]*BTCUSDT[^"]*)"', page)
    assert Path(unquote(urlsplit(bitcoin).path)).read_text() == "<!DOCTYPE html><p>BTCUSDT</p>"
    assert [row["market"].split()[0] for row in table()] == ["1000PEPEUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert f"  markets  {place.as_uri()}" in Outcomes(each=(), panel=str(place)).text().splitlines()
    assert not list(home.glob("*.tmp"))


def test_page_that_cannot_be_written_fails_no_run(prefect_api, home):
    four_markets(ArtifactStore(str(home / "models")))
    (home / "markets-sandbox-0123abcd.html").mkdir()
    assert compared() == ""
    assert not list(home.glob("*.tmp"))
    assert "markets  " not in Outcomes(each=()).text()
