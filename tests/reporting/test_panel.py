"""All markets side by side: what is read of each version, what counts, and what a damaged one does to the others."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from storage.artifacts import ArtifactStore
from storage.schema import Source
from tasks.reporting.panel import read_panel
from tasks.reporting.panel_page import panel_line, panel_table, render_panel
from tasks.reporting.templating import script_hash
from tests.champion.example_manifest import MANIFEST
from tests.reporting.example_panel import NOW, SANDBOX, four_markets, tried, version_of

SPACE, MINUS = "\N{NO-BREAK SPACE}", "\N{MINUS SIGN}"


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "models"))


@pytest.fixture
def panel(store):
    four_markets(store)
    return read_panel(store, SANDBOX, NOW)


def page_of(panel) -> str:
    return render_panel(panel, link=lambda ref: f"/{ref}")


class Rows(HTMLParser):
    """The rows of the table of markets: the text of each cell, and what it sorts by."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, str | None]]] = []
        self.links: list[str | None] = []
        self.feed(page[page.index("<tbody>") : page.index("</tbody>")])

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append(("", dict(attrs).get("data-sort")))
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_data(self, data):
        if data.strip():
            text, sort = self.rows[-1][-1]
            self.rows[-1][-1] = (f"{text} {data.strip()}".strip(), sort)


def test_each_market_is_told_by_its_newest_version(panel):
    bitcoin = next(row for row in panel.rows if row.name == "linear-BTCUSDT-5")
    assert (bitcoin.versions, bitcoin.trials, bitcoin.searched, bitcoin.error) == (2, 2, 0, "")
    facts = bitcoin.facts
    assert (facts.labels, facts.folds, facts.edge_bp, facts.edge_error_bp) == (23_993, 4, 0.31, 0.2)
    assert (facts.baseline.name, facts.baseline.lead, facts.lead_p, facts.direction_p) == (
        "LightGBM",
        0.0052,
        1e-6,
        0.03,
    )
    assert facts.made.isoformat() == "2026-01-05T16:00:00+00:00"
    assert facts.vol_calibration_gap == pytest.approx(0.03)  # 0.22 of the windows are below the quantile of 0.25


def test_what_counts_is_set_right_for_every_market_the_damaged_one_too(panel):
    by_name = {row.name: row.facts for row in panel.rows}
    assert by_name["linear-1000PEPEUSDT-5"] is None
    bitcoin, solana = by_name["linear-BTCUSDT-5"], by_name["linear-SOLUSDT-5"]
    # Four markets: p of rank j times 4 (1 + 1/2 + 1/3 + 1/4) / j = 25 / 3 / j.
    assert bitcoin.lead_adjusted == pytest.approx(1e-6 * 25 / 3)
    assert solana.lead_adjusted == pytest.approx(0.03 * 25 / 3 / 2)
    assert (bitcoin.lead_counts, solana.lead_counts) == (True, False)
    assert solana.direction_adjusted == pytest.approx(0.0004 * 25 / 3)
    assert bitcoin.direction_adjusted == pytest.approx(0.03 * 25 / 3 / 2)
    assert (bitcoin.direction_counts, solana.direction_counts) == (False, True)


@pytest.mark.promise(0)
def test_markets_of_another_source_are_neither_shown_nor_counted(store):
    version_of(store, "BTCUSDT", p_value=0.04)
    for symbol in ("ETHUSDT", "SOLUSDT"):
        version_of(store, symbol, source=Source("bybit"))
    (row,) = read_panel(store, SANDBOX, NOW).rows
    assert row.facts.lead_adjusted == 0.04
    assert [row.name for row in read_panel(store, Source("bybit"), NOW).rows] == [
        "linear-ETHUSDT-5",
        "linear-SOLUSDT-5",
    ]


@pytest.mark.promise(19)
@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"backtest.json": b'{"skill": {"samples": 3}}'}, "skill.direction_p_value: Field required"),
        ({"backtest.json": b"\xff"}, "no JSON"),
        ({"backtest.json": b"[" * 100_000}, "no JSON"),
        ({"backtest.json": b'{"skill": {"samples": 3, "direction_p_value": 7, "edge_bp": 1}}'}, "direction_p_value"),
        ({"backtest.json": b'{"skill": {"samples": 1%s}}' % (b"0" * 400)}, "skill.samples: Input should be less than"),
        ({"folds.json": b"7"}, "no len"),
        ({"risk.json": b'{"below": [0.1]}'}, "zip()"),
        ({"risk.json": b'{"below": ["<script>"]}'}, "below.0: Input should be a valid number"),
    ],
    ids=["incomplete", "bytes", "nested", "impossible", "endless", "no list", "too few", "text"],
)
def test_damaged_version_is_one_row_that_says_so_and_stops_no_other(store, files, said):
    version_of(store, "BADUSDT", files=files)
    version_of(store, "BTCUSDT")
    bad, good = read_panel(store, SANDBOX, NOW).rows
    assert bad.facts is None
    assert said in bad.error
    assert good.facts.labels == 23_993


@pytest.mark.promise(19)
def test_impossible_p_value_of_one_market_stops_no_other(store):
    version_of(store, "BADUSDT", p_value=-3.0)
    version_of(store, "BTCUSDT")
    bad, good = read_panel(store, SANDBOX, NOW).rows
    assert "p_value of the lead must be 0 to 1, was -3.0" in bad.error
    assert good.facts.lead_counts


@pytest.mark.promise(0)
def test_version_that_names_an_origin_of_another_source_is_refused(store):
    version_of(store, origin="exchange")
    (row,) = read_panel(store, SANDBOX, NOW).rows
    assert "must name an origin of its source, was exchange" in row.error


def test_market_that_was_tried_but_has_no_version_is_shown_and_counted(store):
    tried(store, "ETHUSDT", 1)
    version_of(store, "BTCUSDT", p_value=0.04)
    bitcoin, ether = read_panel(store, SANDBOX, NOW).rows
    assert ether.error.startswith("no version yet")
    assert bitcoin.facts.lead_adjusted == pytest.approx(0.04 * 2 * 1.5)


def test_version_without_forecast_risk_or_rated_baseline_has_neither(store):
    version_of(store, summary=MANIFEST.summary, files={"risk.json": b'{"below": []}'})
    (row,) = read_panel(store, SANDBOX, NOW).rows
    assert (row.facts.vol_calibration_gap, row.facts.baseline, row.facts.lead_p, row.facts.lead_adjusted) == (
        None,
        None,
        None,
        1.0,
    )
    assert "none was rated" in page_of(read_panel(store, SANDBOX, NOW))


def test_markets_beyond_the_bound_are_left_out_and_counted(store, monkeypatch):
    monkeypatch.setattr("tasks.reporting.panel.MOST_MARKETS", 1)
    for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT"):
        version_of(store, symbol)
    found = read_panel(store, SANDBOX, NOW)
    assert (len(found.rows), found.left_out) == (1, 2)
    assert "and 2 further markets" in page_of(found)


def test_page_has_a_row_a_market_with_values_to_sort_by(panel):
    found = Rows(page_of(panel))
    damaged, bitcoin, ether, solana = found.rows
    assert [text for text, _ in bitcoin] == [
        "BTCUSDT linear 5m 2 versions, 2 trials",
        "23,993 81 days",
        "4",
        "fails 2 of 3",
        f"+0.00520{SPACE}nat counts LightGBM p <{SPACE}0.001, adjusted <{SPACE}0.001",
        f"+0.31{SPACE}bp ± 0.39 bp log-loss of the side: p 0.030, adjusted 0.125",
        "holds 7 of 7",
        "off by 0.03",
        "4.8 days 2026-01-05",
    ]
    assert [sort for _, sort in bitcoin][:6] == ["BTCUSDT linear 5m", "23993", "4", "1", "0.0052", "0.31"]
    assert ether[7] == ("\N{EN DASH}", None)
    assert solana[5] == (
        f"+2.71{SPACE}bp counts ± 0.39 bp log-loss of the side: p <{SPACE}0.001, adjusted 0.003",
        "2.71",
    )
    assert damaged[0] == ("1000PEPEUSDT linear 5m 1 version, 1 trial", "1000PEPEUSDT linear 5m")
    assert damaged[1][0].startswith("Can't be shown: version sandbox:0123abcd/linear-1000PEPEUSDT-5/")
    assert len(damaged) == 2
    assert found.links[0] == "/sandbox:0123abcd/linear-BTCUSDT-5/20260105T160000Z-0000001e"


@pytest.mark.promise(0)
def test_page_names_its_source_and_counts_what_was_looked_at(panel):
    page = page_of(panel)
    assert "<title>All markets · synthetic market, sandbox:0123abcd</title>" in page
    assert "SYNTHETIC" in page
    assert "Lead beyond luck in 1 of 4 markets, direction in 1" in page
    assert "Each taken by itself, it would be 2 and 2." in page
    assert "trials 5, networks of searches 0, strategies behind the default preset 160" in page


@pytest.mark.promise(18)
def test_page_asks_nobody_and_runs_no_script_but_its_own(panel):
    page = page_of(panel)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src '{script_hash(script.encode())}'" in page
    assert not re.search(r"https?://|@import|url\(|\son\w+=", page)


@pytest.mark.promise(18)
def test_names_that_others_wrote_are_escaped(store):
    version_of(store, baseline="<script>alert(1)</script>\N{RIGHT-TO-LEFT OVERRIDE}")
    version_of(store, "BADUSDT", files={"risk.json": json.dumps({"below": {"<b onclick=x>": 1}}).encode()})
    page = page_of(read_panel(store, SANDBOX, NOW))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\N{REPLACEMENT CHARACTER}" in page
    assert page.count("<script>") == 1
    assert "<b " not in page


@pytest.mark.parametrize(
    ("source", "command"),
    [
        ("bybit", "make run EXCHANGE=bybit SYMBOLS=BTCUSDT,ETHUSDT,SOLUSDT"),
        ("sandbox:0123abcd", "make run SYMBOLS=BTCUSDT,ETHUSDT,SOLUSDT"),
    ],
)
def test_page_without_a_market_says_what_to_run(store, source, command):
    page = page_of(read_panel(store, Source(source), NOW))
    assert f"<code>{command}</code>" in page
    assert "<table" not in page


def test_equal_panels_give_equal_pages(panel):
    assert page_of(panel) == page_of(replace(panel))


def test_table_for_a_runs_page_has_three_columns_and_says_what_counts(panel):
    damaged, bitcoin, ether, solana = panel_table(panel)
    assert bitcoin == {
        "market": "BTCUSDT linear 5m",
        "verdicts": "trading fails (2 of 3), risk holds",
        "lead, direction edge": f"+0.00520{SPACE}nat (counts), +0.31{SPACE}bp",
    }
    assert ether["lead, direction edge"] == f"{MINUS}0.00030{SPACE}nat, {MINUS}0.12{SPACE}bp"
    assert solana["lead, direction edge"].endswith("bp (counts)")
    assert damaged["verdicts"].startswith("can't be shown: ")
    assert {len(row) for row in panel_table(panel)} == {3}
    assert panel_line(panel) == (
        "synthetic market, sandbox:0123abcd: of 4 markets 1 lead by more than luck, 1 in direction "
        "(false discovery rate 0.05)"
    )
