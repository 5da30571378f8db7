"""The report as a page: whole, bounded, the same again, and closed to whatever is written into it."""

import base64
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from storage.schema import ConfigError, Source
from tasks.champion.promotion import Check
from tasks.execution.importance import Importance
from tasks.execution.track_record import TrackRecord
from tasks.reporting.explorer import library
from tasks.reporting.report import render_report, summary_markdown
from tasks.reporting.report_data import CostPoint, Equity
from tests.reporting.example_report import BAR_MS, example, market_of, round_trips
from tests.reporting.read_page import Page

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(example())


def pictures(markup: str) -> list[str]:
    """Return every static chart of a page."""
    return re.findall(r"<svg.*?</svg>", markup, re.DOTALL)


def script_of(markup: str, name: str) -> str:
    """Return what a script element with that id holds."""
    return re.search(rf'<script type="[^"]+" id="{name}">(.*?)</script>', markup, re.DOTALL)[1]  # type: ignore[index]


def test_page_is_well_formed(page: str) -> None:
    assert page.startswith("<!DOCTYPE html>\n")
    parsed = Page(page)
    assert parsed.inside == []
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in parsed.of("a", "href")} < set(ids)
    for picture in pictures(page):
        ElementTree.fromstring(picture)  # noqa: S314 - matplotlib's


def test_every_table_says_what_it_holds_and_what_its_cells_belong_to(page: str) -> None:
    parsed = Page(page)
    assert parsed.tags.count("caption") == parsed.tags.count("table") >= 15
    scopes = parsed.of("th", "scope")
    assert len(scopes) == parsed.tags.count("th")
    assert set(scopes) == {"col", "row"}


@pytest.mark.promise(0)
def test_every_chart_names_the_source(page: str) -> None:
    drawn = pictures(page)
    assert len(drawn) == 7 * 2 + 5  # seven for a desktop and a phone, five for both
    assert all("SYNTHUSDT linear 5m · synthetic market, sandbox:1a2b3c4d" in picture for picture in drawn)


def test_every_chart_has_words_for_who_does_not_see_it(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.of("figure", "aria-label")) == 12
    assert parsed.tags.count("figure") == 13  # the one to zoom into names itself
    assert [value for value in parsed.of("div", "role") if value == "img"] == ["img"]


def test_page_needs_nothing_but_itself(page: str) -> None:
    parsed = Page(page)
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
    (policy,) = [value for value in Page(page).of("meta", "content") if "default-src" in value]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"


HOSTILE = (
    "</style><script>alert('1')</script>\"&amp;<img src=x onerror=y>\x00\x1b\u202e$\\frac{1$|`[x](javascript:1)\n# no"
)


def test_hostile_text_stays_text() -> None:
    data = example(500)
    manifest, table = data.manifest, data.comparison.table
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
        comparison=replace(data.comparison, table=(*table[:1], replace(table[1], name=HOSTILE), *table[1:])),
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
    page = Page(markup)
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
    line, row, fold = data.comparison.table[1], data.speed.model, data.training[0]
    points = [replace(point, train_loss=math.inf, validation_loss=math.nan) for point in fold.history[1:]]
    data = replace(
        data,
        comparison=replace(
            data.comparison,
            table=(
                *data.comparison.table,
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
    seen = Page(render_report(data)).visible + re.sub(r"base64,\S+", "", summary_markdown(data))
    assert seen.count("undefined") >= 30
    assert re.findall(r"\b(nan|inf|infinity|none|null)\b", seen, re.IGNORECASE) == []


def test_what_is_not_there_is_left_out() -> None:
    markup = render_report(replace(example(500), beside=(), importance=(), paper=()))
    sections = re.findall(r'<section[^>]* id="(\w+)"', markup)
    assert {"beside", "paper"}.isdisjoint(sections)
    assert "What it looks at" not in Page(markup).visible
    assert {"verdict", "skill", "glossary"} < set(sections)


@pytest.mark.parametrize("bars", [1, 2, 3])
def test_shortest_series_can_be_drawn(bars: int) -> None:
    candles, flat = market_of([100.0] * bars), np.ones(bars + 1)
    few = Equity(candles=candles, interval_ms=BAR_MS, model=flat, buy_and_hold=flat, trades=round_trips(candles, 0))
    drawn = pictures(render_report(replace(example(500), equity=few)))
    assert len([picture for picture in drawn if "Equity and drawdown" in picture]) == 2


def test_same_data_give_the_same_bytes_in_another_process(page: str) -> None:
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
    account = partial(Equity, interval_ms=BAR_MS, trades=round_trips(bars, 0))
    with pytest.raises(ConfigError, match=r"equity of 2 bars must have one value more in every series, had .*: 2"):
        account(candles=bars, model=np.ones(2), buy_and_hold=np.ones(3))
    with pytest.raises(ConfigError, match=r"equity must be finite in every bar, was not in that of buy and hold"):
        account(candles=bars, model=np.ones(3), buy_and_hold=np.array([1.0, math.nan, 1.0]))
    with pytest.raises(ConfigError, match=r"equity of 0 bars must have one value more"):
        account(candles=bars[:0], model=np.ones(1), buy_and_hold=np.ones(1))
