import base64
import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from storage.schema import ConfigError, Source
from tasks.champion.promotion import Check
from tasks.execution.importance import Importance
from tasks.execution.track_record import TrackRecord
from tasks.reporting.explorer import library
from tasks.reporting.report import render_report, summary_markdown
from tasks.reporting.report_data import CostPoint, Equity, ReportData
from tests.reporting.example_report import BAR_MS, example, market_of


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(example())


PASSED = (Check(name="closed trades", passed=True, found="412", wanted=">= 100"),)


def with_judgement(**changed: object) -> ReportData:
    """Return the short example with another judgement."""
    data = example(500)
    return replace(data, manifest=replace(data.manifest, judgement=replace(data.manifest.judgement, **changed)))


VOID = {"meta", "br", "img", "input", "link"}


class _Page(HTMLParser):
    """What a browser would make of a page: elements, attributes and visible text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.inside.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script", "svg"} & set(self.inside):
            self.words.append(data)

    @property
    def visible(self) -> str:
        """The text beside the charts' own."""
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def of(self, tag: str, name: str) -> list[str]:
        """Every value that elements of one kind give an attribute."""
        return [value for element, attribute, value in self.attributes if (element, attribute) == (tag, name)]


def pictures(markup: str) -> list[str]:
    """Return every static chart of a page."""
    return re.findall(r"<svg.*?</svg>", markup, re.DOTALL)


def script_of(markup: str, name: str) -> str:
    """Return what a script element with that id holds."""
    return re.search(rf'<script type="[^"]+" id="{name}">(.*?)</script>', markup, re.DOTALL)[1]  # type: ignore[index]


# --- the page ---------------------------------------------------------------------------------------------------------


def test_page_is_well_formed(page: str) -> None:
    assert page.startswith("<!DOCTYPE html>\n")
    parsed = _Page(page)
    assert parsed.inside == []
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in parsed.of("a", "href")} < set(ids)
    for picture in pictures(page):
        ElementTree.fromstring(picture)  # noqa: S314 - matplotlib's


def test_every_table_says_what_it_holds_and_what_its_cells_belong_to(page: str) -> None:
    parsed = _Page(page)
    assert parsed.tags.count("caption") == parsed.tags.count("table") >= 15
    scopes = parsed.of("th", "scope")
    assert len(scopes) == parsed.tags.count("th")
    assert set(scopes) == {"col", "row"}


def test_every_chart_has_words_for_who_does_not_see_it(page: str) -> None:
    parsed = _Page(page)
    assert len(parsed.of("figure", "aria-label")) == 12
    assert parsed.tags.count("figure") == 13  # the one to zoom into names itself
    assert [value for value in parsed.of("div", "role") if value == "img"] == ["img"]


def test_page_needs_nothing_but_itself(page: str) -> None:
    parsed = _Page(page)
    assert set(parsed.tags).isdisjoint({"link", "iframe", "object", "embed", "form", "base", "img", "image"})
    for _, name, value in parsed.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "srcset", "action")
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
    sheet = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]  # type: ignore[index]
    assert "url(" not in sheet
    assert "@import" not in sheet


def test_policy_names_the_two_scripts_of_the_page_and_allows_nothing_else(page: str) -> None:
    ours = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    inflated = zlib.decompress(base64.b64decode(script_of(page, "explorer-library"), validate=True))
    assert len(ours) == 1
    assert inflated.startswith(b"/**\n* plotly.js v")
    hashes = [base64.b64encode(hashlib.sha256(code).digest()).decode() for code in (ours[0].encode(), inflated)]
    (policy,) = [value for value in _Page(page).of("meta", "content") if "default-src" in value]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"


def test_verdict_comes_first_then_why_then_evidence(page: str) -> None:
    seen = _Page(page).visible
    places = [
        seen.index(words)
        for words in (
            "SYNTHETIC a made-up market: says nothing about a real one",
            "Not promoted: no position is taken",
            "5 of 7 conditions hold. Not met:",
            "net result at 1.5x costs -7.42% > 0 % lead over the champion p = 0.71 p < 0.05",
            "Sharpe ratio, daily",
            "Funding is switched off",
            "pass unseen days 83 >= 30",
            "fail net result at 1.5x costs -7.42% > 0 %",
            "No bar had been seen by the model that predicted it.",
            "total return, net −2.11 % +10.42 % +0.00 %",
            "11, assumed −2.11 % −0.42 302 −2.54 %",
            "Net return by month",
            "Accuracy 37.2 % 95 %: 35.1 % to 39.3 %; always the majority class: 33.9 %",
            "The calibration error (ECE) is 1.0 %; a perfectly calibrated model would show 0.8 %",
            "2 1.02 nat 2.00 % 102",
            "network.members 3 1",
            "xception, K=3 ONNX Runtime 9,571 1,010,432 178.0 µs 240.3 µs 345.3 µs",
            "SYNTHUSDT linear 5m 60,000 2025-01-01T00:00Z",
            "1 train 2025-01-01T00:00Z",
            "python -m flows.evaluate --version sandbox:1a2b3c4d/linear-SYNTHUSDT-5/20260104T100000Z-7f3c9a2e",
            "dataset d41a0c77b2e9f310",
            "champion The version in force",
        )
    ]
    assert places == sorted(places)


@pytest.mark.promise(0)
@pytest.mark.parametrize(
    ("origin", "source", "label", "ribbon"),
    [
        ("synthetic", "sandbox:1a2b3c4d", "synthetic market, sandbox:1a2b3c4d", "SYNTHETIC"),
        ("replayed", "sandbox:1a2b3c4d", "replayed candles, sandbox:1a2b3c4d", "REPLAY"),
        ("exchange", "testnet", "Bybit testnet", "TESTNET"),
        ("exchange", "demo", "Bybit demo", "DEMO"),
        ("exchange", "bybit", "Bybit", "BYBIT"),
    ],
)
def test_every_title_names_the_source(origin: str, source: str, label: str, ribbon: str) -> None:
    data = example(500)
    ref = replace(data.ref, source=Source(source))
    data = replace(data, ref=ref, manifest=replace(data.manifest, origin=origin))
    markup = render_report(data)
    assert f"<title>SYNTHUSDT linear 5m · {label} · 20260104T100000Z-7f3c9a2e</title>" in markup
    assert _Page(markup).visible.split(ribbon)[1]  # the first word that is seen
    assert f"<strong>{ribbon}</strong>" in markup.partition("<h1>")[0]
    assert label in markup.partition("<header>")[2].partition("</header>")[0]
    headings = re.findall(r"<h2>(.*?)</h2>", markup)[1:]  # behind the verdict's
    assert len(headings) == 14
    if origin != "exchange":
        assert all(label in heading for heading in headings)
    drawn = pictures(markup)
    assert len(drawn) == 15
    assert all(f"SYNTHUSDT linear 5m · {label}" in picture for picture in drawn)
    assert f"**SYNTHUSDT linear 5m · {label}**" in summary_markdown(data)


@pytest.mark.parametrize("checks", [None, PASSED], ids=["kept", "promoted"])
def test_fixed_wording_never_implies_profit(page: str, checks: tuple[Check, ...] | None) -> None:
    data = example(500) if checks is None else with_judgement(checks=checks)
    seen = _Page(page if checks is None else render_report(data)).visible + summary_markdown(data)
    allowed = re.sub(r"profit factor|win rate|windows?\b|mean edge( of a move, before costs)?", "", seen, flags=re.I)
    claims = r"profit|\bearn|guarantee|outperform|\bbeat|\bwin|opportunit|\bwill\b|promis|success|edge\b"
    assert re.findall(claims, re.sub(r"base64,\S+", "", allowed), re.IGNORECASE) == []
    assert seen.count("It is no forecast and no advice.") == 3  # beside the verdict, at the foot, under the summary


def test_headline_names_the_decision_and_the_champion() -> None:
    champion = "20260103T100000Z-00c0ffee"
    promoted = _Page(render_report(with_judgement(checks=PASSED, champion=champion))).visible
    assert "Promoted: meets every condition and replaces 20260103T100000Z-00c0ffee" in promoted
    assert "1 of 1 conditions hold." in promoted
    first = _Page(render_report(with_judgement(checks=PASSED))).visible
    assert "Promoted: meets every condition and replaces flat (no position)" in first
    kept = _Page(render_report(with_judgement(champion=champion))).visible
    assert "Not promoted: 20260103T100000Z-00c0ffee stays in force" in kept


def test_condition_that_was_not_run_is_neither_passed_nor_failed() -> None:
    checks = (
        Check(name="closed trades", passed=False, found="3", wanted=">= 100"),
        Check(name="second seed", passed=None, found="not run", wanted="> 0 %"),
    )
    data = with_judgement(checks=checks)
    seen = _Page(render_report(data)).visible
    assert "0 of 2 conditions hold. Not met:" in seen
    assert "condition found asked closed trades 3 >= 100 Not run: second seed." in seen
    assert "fail closed trades 3 >= 100 open second seed not run > 0 %" in seen
    assert "| **open:** second seed | not run |" in summary_markdown(data)


HOSTILE = (
    "</style><script>alert('1')</script>\"&amp;<img src=x onerror=y>\x00\x1b\u202e$\\frac{1$|`[x](javascript:1)\n# no"
)


def test_hostile_text_stays_text() -> None:
    data = example(500)
    manifest, table = data.manifest, data.contest.table
    data = replace(
        data,
        ref=replace(data.ref, version=HOSTILE),
        created=HOSTILE,
        manifest=replace(
            manifest,
            origin_detail=HOSTILE,
            dataset=HOSTILE,
            code=HOSTILE,
            libraries={HOSTILE: HOSTILE},
            judgement=replace(
                manifest.judgement,
                champion=HOSTILE,
                checks=(
                    Check(name=HOSTILE, passed=False, found=HOSTILE, wanted=HOSTILE),
                    Check(name=HOSTILE, passed=None, found=HOSTILE, wanted=HOSTILE),
                ),
            ),
            summary=replace(manifest.summary, warnings=(HOSTILE,)),
        ),
        contest=replace(data.contest, table=(*table[:1], replace(table[1], name=HOSTILE), *table[1:])),
        metrics={**data.metrics, HOSTILE: data.metrics["flat"]},
        slices=(replace(data.slices[0], name=HOSTILE),),
        skill=replace(data.skill, direction_reference=HOSTILE),
        speed=replace(
            data.speed,
            machine={HOSTILE: HOSTILE},
            rows=(replace(data.speed.rows[0], name=HOSTILE, runtime=HOSTILE),),
        ),
        class_mix=dict.fromkeys((HOSTILE, r"$\frac{$", "🚀", "市場"), (1, 2, 3)),
        data_quality=({HOSTILE: HOSTILE},),
        folds=({"fold": HOSTILE, "part": HOSTILE, "first": HOSTILE, "last": HOSTILE},),
        fold_scores=({HOSTILE: HOSTILE},),
        beside=({HOSTILE: HOSTILE},),
        paper=({HOSTILE: HOSTILE},),
        importance=(Importance(name=HOSTILE, loss=0.1, spread=0.1),),
        equity=replace(data.equity, baselines={HOSTILE: data.equity.model}),
    )
    markup = render_report(data)
    page = _Page(markup)
    assert page.tags.count("script") == 3  # ours, and what it reads
    assert {"x", "img"}.isdisjoint(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.visible.count("</style><script>alert('1')</script>\"&amp;<img src=x onerror=y>") >= 20
    assert not set("\x00\x1b\u202e") & set(page.visible)
    assert HOSTILE in json.loads(script_of(markup, "explorer-data"))["series"]
    for picture in pictures(markup):
        assert "<style" not in picture  # one would style the whole page
        assert not [e for e in ElementTree.fromstring(picture).iter() if e.tag.endswith("script")]  # noqa: S314

    summary = summary_markdown(data)
    assert "<script" not in summary
    assert "\n# no" not in summary
    for line in summary.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) == line.count(" | ") + 2
    assert "](javascript" not in summary


def test_undefined_values_are_named_and_nothing_is_infinite() -> None:
    nothing = (None, math.nan, math.inf, -math.inf)
    data = example(500)
    undefined = replace(
        data.metrics["model"], sharpe_ratio=None, sortino_ratio=math.nan, calmar=math.inf, cagr=-math.inf
    )
    line, row, fold = data.contest.table[1], data.speed.model, data.training[0]
    points = [replace(point, train_loss=math.inf, validation_loss=math.nan) for point in fold.history[1:]]
    data = replace(
        data,
        contest=replace(
            data.contest,
            table=(
                *data.contest.table,
                *(
                    replace(line, log_loss=value, lead=value, lead_error=value, accuracy=value, total_return=value)
                    for value in nothing[1:]
                ),
            ),
        ),
        record=TrackRecord(
            days=1, trades=0, sharpe_ratio=None, low=None, high=None, sharpe_lo=math.nan, probabilistic=math.inf,
            days_needed=None,
        ),
        equity=replace(data.equity, model=np.r_[data.equity.model[:300], np.zeros(201)]),  # ruined
        metrics={"model": undefined, "buy and hold": undefined},
        costs=(CostPoint(0.0001, replace(undefined, total_return=math.nan), undefined, True),),
        delays=(undefined,),
        speed=replace(data.speed, rows=(replace(row, p50_us=math.nan, p95_us=math.inf, p99_us=-math.inf),)),
        data_quality=({"a": None, "b": math.nan, "c": math.inf},),
        training=(replace(fold, history=(fold.history[0], *points)),),
        skill=replace(
            data.skill, confusion=np.zeros((3, 3), np.int64), calibration_error=math.nan, direction_skill=None,
            direction_accuracy=None, edge_bp=None, edge_error_bp=None, auc=(None, None, None),
        ),
        class_mix={"nothing": (0, 0, 0)},
    )  # fmt: skip
    seen = _Page(render_report(data)).visible + re.sub(r"base64,\S+", "", summary_markdown(data))
    assert seen.count("undefined") >= 30
    assert re.findall(r"\b(nan|inf|infinity|none|null)\b", seen, re.IGNORECASE) == []


def test_what_is_not_there_is_left_out() -> None:
    markup = render_report(replace(example(500), beside=(), importance=(), paper=()))
    sections = re.findall(r'<section[^>]* id="(\w+)"', markup)
    assert {"beside", "paper"}.isdisjoint(sections)
    assert "What it looks at" not in _Page(markup).visible
    assert {"verdict", "skill", "glossary"} < set(sections)


@pytest.mark.parametrize("bars", [1, 2, 3])
def test_shortest_series_can_be_drawn(bars: int) -> None:
    few = Equity(
        candles=market_of([100.0] * bars), interval_ms=BAR_MS, model=np.ones(bars + 1), buy_and_hold=np.ones(bars + 1)
    )
    drawn = pictures(render_report(replace(example(500), equity=few)))
    assert len([picture for picture in drawn if "Equity and drawdown" in picture]) == 2


def test_same_data_give_the_same_bytes_in_another_process(page: str) -> None:
    assert render_report(example()) == page
    code = (
        "import sys; from example_report import example; "
        "from tasks.reporting.report import render_report, summary_markdown; "
        "sys.stdout.reconfigure(encoding='utf-8', newline=''); "
        "sys.stdout.write(render_report(example()) + summary_markdown(example())); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run(  # noqa: S603 - the code is written above
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ
        | {
            "PYTHONHASHSEED": "5",
            "PYTHONPATH": str(Path(__file__).parent),
            "TZ": "America/New_York",
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == b""
    assert done.stdout.decode() == page + summary_markdown(example())


def test_drawing_leaves_matplotlibs_settings_alone() -> None:
    before = dict(mpl.rcParams)
    render_report(example(500))
    assert dict(mpl.rcParams) == before


def test_page_of_a_million_bars_stays_small() -> None:
    data = example(1_000_000)
    size = len(render_report(data).encode())
    assert size - len(library()[0]) < 1_500_000
    assert size < 6_000_000
    assert len(summary_markdown(data).encode()) < 200_000


# --- the summary ------------------------------------------------------------------------------------------------------


def test_summary_says_verdict_conditions_and_numbers_and_carries_one_picture() -> None:
    summary = summary_markdown(example())
    assert summary.startswith("# Not promoted: no position is taken\n")
    assert "| **fail:** net result at 1.5x costs | -7.42% | &gt; 0 % |" in summary
    assert "> **Funding is switched off: positions held over a funding stamp cost nothing here.**" in summary
    assert "- **Net return −2.11 %**: " in summary
    (uri,) = re.findall(r"!\[[^\]]*\]\(data:image/png;base64,([^)]+)\)", summary)
    picture = imread(io.BytesIO(base64.b64decode(uri, validate=True)), format="png")
    assert picture.shape[1] == 844  # 760 points at 80 dots an inch


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_report_refuses_an_origin_that_hides_the_source() -> None:
    data = example(500)
    with pytest.raises(ConfigError, match=r"origin must be replayed or synthetic for a sandbox only, was 'exchange'"):
        replace(data, manifest=replace(data.manifest, origin="exchange"))
    with pytest.raises(ConfigError, match=r"was 'synthetic' of bybit"):
        replace(data, ref=replace(data.ref, source=Source("bybit")))
    with pytest.raises(
        ConfigError, match=r"source must be bybit, testnet, demo or sandbox:<8 hex digits>, was 'nasdaq'"
    ):
        replace(data, ref=replace(data.ref, source=Source("nasdaq")))


def test_equity_refuses_series_of_different_lengths() -> None:
    bars = market_of([1.0, 2.0])
    with pytest.raises(ConfigError, match=r"equity of 2 bars must have one value more in every series, had .*: 2"):
        Equity(candles=bars, interval_ms=BAR_MS, model=np.ones(2), buy_and_hold=np.ones(3))
    with pytest.raises(ConfigError, match=r"equity must be finite in every bar, was not in that of buy and hold"):
        Equity(candles=bars, interval_ms=BAR_MS, model=np.ones(3), buy_and_hold=np.array([1.0, math.nan, 1.0]))
    with pytest.raises(ConfigError, match=r"equity of 0 bars must have one value more"):
        Equity(candles=bars[:0], interval_ms=BAR_MS, model=np.ones(1), buy_and_hold=np.ones(1))


def test_table_of_baselines_shows_who_was_better_and_a_dash_where_a_number_does_not_apply(page: str) -> None:
    seen = _Page(page).visible
    assert "Beside the baselines" in seen
    assert "logistic regression 1.08910 nat −0.00060 nat 0.040 37.2 % −1.04 % −0.20 398" in seen
    assert "flat – – – – +0.00 % undefined 0" in seen
    assert "Of 1,000 random timings of the model's own positions, with its exposure and turnover, 81.2 % ended" in seen


def test_sessions_on_paper_stand_beside_the_backtest_of_their_candles(page: str) -> None:
    seen = _Page(page).visible
    assert "On paper" in seen
    newer, older = seen.index("btc-tuesday"), seen.index("btc-monday")
    assert "it has not ended" in seen[newer:older]
    assert "+1.32 %" in seen[older : older + 200]
    assert "1,998 of 2,000" in seen[older : older + 200]


def test_claims_stand_beside_what_was_measured(page: str) -> None:
    seen = _Page(page).visible
    assert "Claimed and measured" in seen
    assert "accuracy on unseen bars 54.2 % 53.8 % 37.15 % 37.21 % 95 %: ± 2.1 %; three classes" in seen
    assert "weights, bytes – – 68,000 41,000 safetensors, float32" in seen
    assert "CPU time of a window, K=9, eager torch 12.3 ms 1.8 ms 1,424.0 µs 1,424.0 µs median" in seen
    assert "names no data, period, cost or machine" in seen


def test_small_p_value_is_called_small_and_never_zero() -> None:
    data = example(500)
    line = replace(data.contest.table[1], p_value=1e-9)
    seen = _Page(render_report(replace(data, contest=replace(data.contest, table=(line,))))).visible
    assert "< 0.001" in seen
    assert "nat 0.000 " not in seen
