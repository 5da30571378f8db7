import base64
import io
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from storage.schema import ConfigError, Market, Source, utc_text
from tasks.reporting.report import render_report, summary_markdown
from tasks.reporting.report_data import (
    ClassMix,
    Condition,
    CostPoint,
    Coverage,
    Equity,
    Latency,
    Measure,
    Reliability,
    ReportData,
    RivalLine,
    StepTimes,
    TrainingCurve,
    Verdict,
)

START_MS = 1_735_689_600_000  # 2025-01-01
BAR_MS = 300_000


def example(bars: int = 24_000) -> ReportData:
    """Return a full report: a model on a synthetic market that does not pay for its costs."""
    rng = np.random.default_rng(7)
    time_ms = START_MS + BAR_MS * np.arange(bars + 1, dtype=np.int64)
    model = 100_000 * np.exp(np.cumsum(np.r_[0, rng.normal(-2e-6, 5e-4, bars)]))
    held = 100_000 * np.exp(np.cumsum(np.r_[0, rng.normal(4e-6, 8e-4, bars)]))
    step = np.arange(40, 1_000, 40)
    runtimes = {"eager torch": 8.0, "ONNX Runtime": 1.0, "engine": 0.02}
    return ReportData(
        market=Market(symbol="SYNTHUSDT"),
        source=Source("sandbox:1a2b3c4d"),
        origin="synthetic",
        origin_detail="Synthetic market drift, k=0.2, psi=0.995, 60,000 bars, seed 7",
        version="20260104T100000Z-7f3c9a2e",
        created="2026-01-04 10:00 UTC",
        verdict=Verdict(
            decision="kept",
            champion="flat",
            conditions=(
                Condition(name="unseen days", passed=True, found="83", wanted=">= 30"),
                Condition(name="closed trades", passed=True, found="412", wanted=">= 100"),
                Condition(
                    name="log-loss better than the prior",
                    passed=True,
                    found="+0.00891 nat, p = 0.001",
                    wanted="> 0, p < 0.05",
                ),
                Condition(name="net result at 1.5x costs", passed=False, found="-7.42%", wanted="> 0 %"),
                Condition(name="lead over the champion", passed=False, found="p = 0.71", wanted="p < 0.05"),
                Condition(name="largest drawdown", passed=True, found="11.3%", wanted="<= 25%"),
                Condition(name="latency, p99", passed=None, found="not measured", wanted="<= 1,000 µs"),
            ),
            notes=("The result before costs is positive; the assumed costs are higher than the break-even cost.",),
        ),
        warnings=("Funding is switched off: positions held over a funding stamp cost nothing here.",),
        highlights=(
            Measure(name="total return, net", value=-0.0211, style="signed share", low=-0.094, high=0.051),
            Measure(name="Sharpe ratio, UTC days", value=-0.42, low=-2.6, high=1.7),
            Measure(
                name="log-loss skill",
                value=0.00891,
                style="signed nat",
                low=0.0062,
                high=0.0116,
                note="prior 1.09861 nat",
            ),
            Measure(name="p99 per bar", value=4.1, style="us", note="compiled engine, one thread"),
        ),
        equity=Equity(
            time_ms=time_ms,
            model=model,
            buy_and_hold=held,
            initial=100_000.0,
            block_starts_ms=tuple(int(time_ms[bars * fold // 4]) for fold in range(4)),
        ),
        metrics={
            "model": {
                "total_return": -0.0211,
                "gross_return": 0.0643,
                "cost_drag": 0.0854,
                "sharpe_ratio": -0.42,
                "sortino_ratio": -0.55,
                "max_drawdown": 0.113,
                "num_trades": 412,
                "win_rate": 0.461,
                "profit_factor": 0.93,
                "expectancy_bp": -0.51,
                "break_even_cost_per_side": 0.00083,
                "turnover_per_day": 9.9,
                "exposure": 0.41,
                "cagr": None,
                "calmar": None,
                "fees_paid": 7_764.2,
                "slippage_paid": 776.4,
                "funding_paid": 0.0,
                "days": 83.3,
            },
            "buy and hold": {
                "total_return": 0.1042,
                "gross_return": 0.1063,
                "cost_drag": 0.0021,
                "sharpe_ratio": 1.1,
                "sortino_ratio": 1.6,
                "max_drawdown": 0.187,
                "num_trades": 1,
                "win_rate": 1.0,
                "profit_factor": None,
                "exposure": 1.0,
            },
            "flat": {"total_return": 0.0, "sharpe_ratio": None, "max_drawdown": 0.0, "num_trades": 0, "win_rate": None},
        },
        costs=tuple(
            CostPoint(cost_bp=bp, total_return=0.0643 - 0.00776 * bp, sharpe_ratio=1.3 - 0.156 * bp, assumed=bp == 11.0)
            for bp in (0.0, 2.0, 5.5, 11.0, 15.0, 22.0)
        ),
        break_even_bp=8.3,
        stress=(
            {"fill": "at the next open", "total_return": "−2.11 %", "sharpe_ratio": -0.42},
            {"fill": "one bar later", "total_return": "−3.02 %", "sharpe_ratio": -0.61},
            {"fill": "two bars later", "total_return": "−3.87 %", "sharpe_ratio": -0.83},
        ),
        trades=tuple(
            {
                "entry": f"2025-01-0{day} 04:05",
                "exit": f"2025-01-0{day} 09:40",
                "side": "long" if day % 2 else "short",
                "bars": 67 - day,
                "entry_price": 101.25 + day,
                "exit_price": 101.9 + day,
                "fees_usdt": 19.1,
                "net_usdt": 42.5 - 15 * day,
            }
            for day in range(1, 9)
        ),
        trades_total=412,
        rivals=tuple(
            RivalLine(
                name=name,
                log_loss=loss,
                accuracy=accuracy,
                lead=lead,
                lead_error=None if lead is None else 0.0006,
                p_value=None if lead is None else 0.04,
                total_return=earned,
                sharpe_ratio=sharpe,
                num_trades=trades,
            )
            for name, loss, accuracy, lead, earned, sharpe, trades in (
                ("this model", 1.0897, 0.3721, None, -0.0211, -0.42, 412),
                ("logistic regression", 1.0891, 0.3718, -0.0006, -0.0104, -0.2, 398),
                ("LightGBM", 1.0912, 0.3702, 0.0015, -0.0311, -0.61, 402),
                ("prior", 1.09861, 0.339, 0.00891, 0.0, None, 0),
                ("persistence", None, 0.331, None, -0.712, -9.1, 3_204),
                ("random timing, median of 1,000", None, None, None, -0.081, -1.6, None),
                ("flat", None, None, None, 0.0, None, 0),
            )
        ),
        rivals_note="Of 1,000 random timings of the model's own positions, 81.2% ended below the model.",
        headline=(
            {"": "weights of one layer", "claimed": "4,672", "measured": "4,672", "note": "K=9"},
            {"": "accuracy", "claimed": "53.8 %", "measured": "37.21 %", "note": "95 %: +/- 1.1 %"},
        ),
        record=(
            Measure(name="Sharpe ratio, √365", value=-0.42, low=-2.6, high=1.7, note="83 UTC days"),
            Measure(name="Deflated Sharpe ratio", value=0.112, style="chance", note="trials run: 12"),
        ),
        slices=(
            {"days": "2025", "number": 83, "net return": "−2.11 %", "Sharpe ratio": "−0.42", "round trips": 412},
            {
                "days": "calm third of the days",
                "number": 28,
                "net return": "−1.20 %",
                "Sharpe ratio": "undefined",
                "round trips": 96,
            },
        ),
        coverage=Coverage(
            share=np.array([1.0, 0.5, 0.2, 0.1, 0.05]),
            accuracy=np.array([0.372, 0.388, 0.401, 0.409, 0.412]),
            error=np.array([0.006, 0.008, 0.013, 0.018, 0.026]),
        ),
        skill=(
            Measure(name="log-loss", value=1.0897, style="nat", note="prior 1.09861 nat"),
            Measure(name="skill against the prior", value=0.00891, style="signed nat", low=0.0062, high=0.0116),
            Measure(
                name="accuracy", value=0.3721, style="share", low=0.361, high=0.383, note="most frequent class 33.9 %"
            ),
            Measure(name="macro F1", value=0.3534),
            Measure(name="Brier score", value=0.6612, note="0 to 2"),
        ),
        class_mix=(
            ClassMix(part="train, fold 4", counts=(15_210, 15_822, 15_020)),
            ClassMix(part="test, all folds", counts=(7_811, 8_322, 7_860)),
            ClassMix(part="predicted", counts=(6_102, 11_350, 6_541)),
        ),
        confusion=np.array([[2_411, 3_502, 1_898], [2_010, 4_302, 2_010], [1_681, 3_546, 2_633]]),
        reliability=Reliability(
            confidence=np.linspace(0.34, 0.47, 15),
            accuracy=np.linspace(0.335, 0.46, 15) + rng.normal(0, 0.008, 15),
            count=np.full(15, 1_600),
            ece=0.0098,
            ece_perfect=0.0081,
        ),
        step_times=StepTimes(edges_us=np.geomspace(1, 50, 41), calls=rng.integers(0, 400, 40), p50_us=1.4, p99_us=3.2),
        latency=tuple(
            Latency(
                name=f"{kind}, K={size}",
                runtime=runtime,
                parameters=parameters,
                macs=macs,
                p50_us=178 * factor * slow,
                p95_us=240 * factor * slow,
                p99_us=346 * factor * slow,
            )
            for size, kind, parameters, macs, slow in (
                (3, "separable", 9_571, 1_010_432, 1.0),
                (3, "standard", 17_251, 1_790_000, 1.1),
                (9, "separable", 9_955, 1_070_000, 1.05),
                (9, "standard", 42_211, 5_240_000, 2.6),
            )
            for runtime, factor in runtimes.items()
            if runtime != "engine" or kind == "separable"
        ),
        data_quality=(
            {
                "market": "SYNTHUSDT linear 5m",
                "bars": 60_000,
                "first": "2025-01-01T00:00Z",
                "last": "2025-07-28T07:55Z",
                "missing": 12,
                "rejected": 3,
                "zero_volume": 0,
            },
        ),
        folds=tuple(
            {
                "fold": fold,
                "part": part,
                "first": utc_text(time_ms[first]),
                "last": utc_text(time_ms[last]),
                "bars": last - first + 1,
            }
            for fold in range(1, 5)
            for part, first, last in (
                ("train", 0, bars * (2 + fold) // 8),
                ("validation", bars * (2 + fold) // 8 + 13, bars * (3 + fold) // 8 - 13),
                ("test", bars * (3 + fold) // 8, bars * (4 + fold) // 8 - 1),
            )
        ),
        training=tuple(
            TrainingCurve(
                fold=fold,
                step=step,
                train_loss=1.1 - 0.012 * (1 - np.exp(-step / 300)) + rng.normal(0, 8e-4, len(step)),
                validation_loss=1.0985
                - 0.009 * (1 - np.exp(-step / 120))
                + 6e-6 * step
                + rng.normal(0, 3e-4, len(step)),
                best_step=400,
                prior_loss=1.0986,
            )
            for fold in range(1, 5)
        ),
        config={
            "labels": {"horizon": 12, "k": 0.4307},
            "model": {"hidden_channels": 32, "separable": True, "padding": "history"},
            "costs": {"commission": 0.001, "slippage": 0.0001, "funding": False},
        },
        versions={"torch": "2.13.0", "numpy": "2.4.6", "numba": "0.62.1"},
        provenance={"dataset": "d41a0c77b2e9f310", "code": "9c1f22d0", "seed": 7, "machine": "2 cores, one thread"},
    )


BARE = ReportData(
    market=Market(symbol="BTCUSDT"),
    source=Source("bybit"),
    origin="exchange",
    version="v",
    created="2026-01-04 10:00 UTC",
    verdict=Verdict(decision="measured"),
)


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(example())


class _Page(HTMLParser):
    """What a browser would make of a page: elements, attributes and visible text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.inside.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.inside.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] != "style":
            self.words.append(data)

    @property
    def visible(self) -> str:
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def images(self) -> list[bytes]:
        """The SVG of every picture, in order."""
        uris = [value for _, name, value in self.attributes if name in ("src", "srcset")]
        return [base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,"), validate=True) for uri in uris]


# --- the page ---------------------------------------------------------------------------------------------------------


def test_page_is_well_formed(page: str) -> None:
    assert page.startswith("<!DOCTYPE html>\n")
    root = ElementTree.fromstring(page)  # noqa: S314 - our own page; strict: every tag closed, every sign escaped
    assert [child.tag for child in root] == ["head", "body"]
    assert _Page(page).inside == []
    ids = [value for _, name, value in _Page(page).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, name, value in _Page(page).attributes if name == "href"} < set(ids)


def test_page_needs_nothing_but_itself(page: str) -> None:
    parsed = _Page(page)
    assert set(parsed.tags).isdisjoint({"script", "link", "iframe", "object", "embed", "form", "base"})
    for _, name, value in parsed.attributes:
        assert not name.startswith("on")
        if name in ("src", "srcset"):
            assert value.startswith("data:image/")
        if name == "href":
            assert value.startswith("#")
    assert "url(" not in page
    assert "@import" not in page
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in parsed.attributes
    for image in parsed.images():
        svg = ElementTree.fromstring(image)  # noqa: S314 - matplotlib's
        for element in svg.iter():
            assert not element.tag.endswith(("script", "image", "foreignObject"))
            links = [value for name, value in element.attrib.items() if name.endswith("href")]
            assert all(link.startswith("#") for link in links)


def test_verdict_comes_first_then_why_then_evidence(page: str) -> None:
    seen = _Page(page).visible
    places = [
        seen.index(words)
        for words in (
            "Not promoted: the champion stays flat (no position)",
            "4 of 7 conditions hold. Not met: net result at 1.5x costs; lead over the champion. Not judged: latency",
            "Funding is switched off",
            "Sharpe ratio, UTC days",
            "fail net result at 1.5x costs -7.42% > 0 %",
            "No bar had been seen by the model that predicted it.",
            "total return, net −2.11 % +10.42 % +0.00 %",
            "11, assumed −2.11 % −0.42",
            "accuracy 37.2 % 95 %: 36.1 % to 38.3 %; most frequent class 33.9 %",
            "The calibration error (ECE) is 1.0 %; a perfectly calibrated model would show 0.8 %",
            "separable, K=3 ONNX Runtime 9,571 1,010,432 178.0 µs 240.0 µs 346.0 µs",
            "SYNTHUSDT linear 5m 60,000 2025-01-01T00:00Z",
            "1 train 2025-01-01T00:00Z",
            "dataset d41a0c77b2e9f310",
        )
    ]
    assert places == sorted(places)


@pytest.mark.promise(0)
@pytest.mark.parametrize(
    ("origin", "source", "label"),
    [
        ("synthetic", "sandbox:1a2b3c4d", "synthetic market, sandbox:1a2b3c4d"),
        ("replayed", "sandbox:1a2b3c4d", "replayed candles, sandbox:1a2b3c4d"),
        ("exchange", "testnet", "Bybit testnet"),
    ],
)
def test_every_title_names_the_source(origin: str, source: str, label: str) -> None:
    data = replace(example(500), origin=origin, source=Source(source))
    markup = render_report(data)
    root = ElementTree.fromstring(markup)  # noqa: S314 - our own page
    title = root.findtext("head/title")
    assert title == f"SYNTHUSDT linear 5m · {label} · 20260104T100000Z-7f3c9a2e"
    assert label in "".join(root.find("body/header").itertext())  # type: ignore[union-attr]
    if origin != "exchange":
        sections = [heading for heading in root.iter("h2") if not heading.text.startswith("Not promoted")]  # type: ignore[union-attr]
        assert len(sections) == 9
        assert all(label in "".join(heading.itertext()) for heading in sections)
    images = _Page(markup).images()
    assert len(images) == 17
    assert all(f"SYNTHUSDT linear 5m · {label}" in image.decode() for image in images)
    assert f"**SYNTHUSDT linear 5m · {label}**" in summary_markdown(data)


@pytest.mark.parametrize("decision", ["promoted", "kept", "measured"])
def test_fixed_wording_never_implies_profit(page: str, decision: Literal["promoted", "kept", "measured"]) -> None:
    data = replace(BARE, verdict=Verdict(decision=decision))
    rendered = page if decision == "kept" else render_report(data)
    seen = _Page(rendered).visible + summary_markdown(data)
    allowed = seen.replace("profit factor", "").replace("win rate", "")
    claims = r"profit|earn(?!ing curve)|guarantee|outperform|\bbeat|\bwin|opportunit|\bwill\b|promis|success|edge\b"
    assert re.findall(claims, re.sub(r"base64,\S+", "", allowed), re.IGNORECASE) == []
    assert seen.count("It is no forecast and no advice.") == 3  # beside the verdict, at the foot, under the summary


def test_headline_names_the_decision_and_the_champion() -> None:
    verdict = Verdict(decision="promoted", champion="20260103T100000Z-00c0ffee")
    promoted = _Page(render_report(replace(BARE, verdict=verdict))).visible
    assert "Meets every condition: it may replace 20260103T100000Z-00c0ffee" in promoted
    assert "No conditions were judged." in promoted
    assert "Measured; nothing was to be decided" in _Page(render_report(BARE)).visible


HOSTILE = (
    "</style><script>alert('1')</script>\"&amp;<img src=x onerror=y>\x00\x1b\u202e$\\frac{1$|`[x](javascript:1)\n# no"
)


def test_hostile_text_stays_text() -> None:
    data = example(500)
    data = replace(
        data,
        origin_detail=HOSTILE,
        version=HOSTILE,
        created=HOSTILE,
        verdict=Verdict(
            decision="kept",
            champion=HOSTILE,
            notes=(HOSTILE,),
            conditions=(Condition(name=HOSTILE, passed=True, found=HOSTILE, wanted=HOSTILE),),
        ),
        warnings=(HOSTILE,),
        highlights=(Measure(name=HOSTILE, value=1.0, note=HOSTILE),),
        skill=(Measure(name=HOSTILE, value=1.0, note=HOSTILE),),
        rivals=(replace(data.rivals[1], name=HOSTILE),),
        rivals_note=HOSTILE,
        headline=({HOSTILE: HOSTILE},),
        record=(Measure(name=HOSTILE, value=1.0, note=HOSTILE),),
        slices=({HOSTILE: HOSTILE},),
        metrics={HOSTILE: {HOSTILE: HOSTILE}},
        latency=(replace(data.latency[0], name=HOSTILE, runtime=HOSTILE),),
        class_mix=tuple(ClassMix(part=part, counts=(1, 2, 3)) for part in (HOSTILE, r"$\frac{$", "\U0001f680", "市場")),
        data_quality=({HOSTILE: HOSTILE},),
        folds=({"fold": HOSTILE, "part": HOSTILE, "first": HOSTILE, "last": HOSTILE},),
        stress=({HOSTILE: HOSTILE},),
        trades=({HOSTILE: HOSTILE},),
        config={HOSTILE: {HOSTILE: HOSTILE}},
        versions={HOSTILE: HOSTILE},
        provenance={HOSTILE: HOSTILE},
    )
    page = _Page(render_report(data))
    assert {"script", "x"}.isdisjoint(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.visible.count("</style><script>alert('1')</script>\"&amp;<img src=x onerror=y>") >= 20
    assert not set("\x00\x1b\u202e") & set(page.visible)
    for image in page.images():
        assert not [e for e in ElementTree.fromstring(image).iter() if e.tag.endswith("script")]  # noqa: S314 - matplotlib's

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
    holes = data.equity.model.copy()
    holes[100:400] = [math.nan, math.inf, -math.inf] * 100
    data = replace(
        data,
        highlights=tuple(Measure(name="x", value=value, low=value, high=value) for value in nothing),
        skill=tuple(Measure(name="x", value=value) for value in nothing),
        rivals=tuple(
            replace(data.rivals[1], log_loss=value, lead=value, lead_error=value, accuracy=value, total_return=value)
            for value in nothing
        ),
        record=tuple(Measure(name="x", value=value) for value in nothing),
        coverage=Coverage(share=np.array([1.0, 0.5]), accuracy=np.full(2, np.nan), error=np.full(2, np.inf)),
        equity=replace(data.equity, model=holes),
        metrics={"model": {"sharpe_ratio": None, "sortino_ratio": math.nan, "calmar": math.inf, "other": -math.inf}},
        costs=tuple(CostPoint(cost_bp=1.0, total_return=value, sharpe_ratio=value, assumed=True) for value in nothing),
        break_even_bp=math.inf,
        reliability=Reliability(
            confidence=np.full(3, np.nan), accuracy=np.full(3, np.nan), count=np.zeros(3, np.int64), ece=math.nan
        ),
        latency=(replace(data.latency[0], parameters=None, macs=None, p50_us=None, p95_us=math.nan, p99_us=math.inf),),
        data_quality=({"a": None, "b": math.nan, "c": math.inf},),
        training=(
            replace(
                data.training[0],
                train_loss=np.full(24, np.inf),
                validation_loss=np.r_[1.0, np.full(23, np.nan)],
                prior_loss=math.nan,
            ),
        ),
        confusion=np.zeros((3, 3), np.int64),
        class_mix=(ClassMix(part="nothing", counts=(0, 0, 0)),),
    )
    seen = _Page(render_report(data)).visible + re.sub(r"base64,\S+", "", summary_markdown(data))
    assert seen.count("undefined") >= 30
    assert re.findall(r"\b(nan|inf|infinity|none|null)\b", seen, re.IGNORECASE) == []


def test_empty_parts_are_left_out() -> None:
    page = _Page(render_report(BARE))
    assert page.tags.count("section") == 1
    assert page.images() == []
    assert "|" not in summary_markdown(BARE)


@pytest.mark.parametrize("bars", [2, 3])
def test_shortest_series_can_be_drawn(bars: int) -> None:
    few = Equity(
        time_ms=START_MS + BAR_MS * np.arange(bars), model=np.ones(bars), buy_and_hold=np.ones(bars), initial=1.0
    )
    assert len(_Page(render_report(replace(BARE, equity=few))).images()) == 2


def test_same_data_give_the_same_bytes_in_another_process(page: str) -> None:
    assert render_report(example()) == page
    code = (
        "import sys; from test_report import example, render_report, summary_markdown; "
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
    assert len(render_report(data).encode()) < 1_000_000
    assert len(summary_markdown(data).encode()) < 200_000


# --- the summary ------------------------------------------------------------------------------------------------------


def test_summary_says_verdict_conditions_and_numbers_and_carries_one_picture() -> None:
    summary = summary_markdown(example())
    assert summary.startswith("# Not promoted: the champion stays flat \\(no position\\)\n")
    assert "| net result at 1.5x costs | fail | -7.42% | &gt; 0 % |" in summary
    assert "> **Funding is switched off: positions held over a funding stamp cost nothing here.**" in summary
    assert "| total return, net | −2.11\N{NO-BREAK SPACE}% |" in summary.replace(" %", "\N{NO-BREAK SPACE}%")
    (uri,) = re.findall(r"!\[[^\]]*\]\(data:image/png;base64,([^)]+)\)", summary)
    picture = imread(io.BytesIO(base64.b64decode(uri, validate=True)), format="png")
    assert picture.shape[1] == 844  # 760 points at 80 dots an inch


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_report_refuses_an_origin_that_hides_the_source() -> None:
    with pytest.raises(ConfigError, match=r"origin must be replayed or synthetic for a sandbox only, was 'exchange'"):
        replace(example(500), origin="exchange")
    with pytest.raises(ConfigError, match=r"was 'synthetic' of bybit"):
        replace(example(500), source=Source("bybit"))
    with pytest.raises(
        ConfigError, match=r"source must be bybit, testnet, demo or sandbox:<8 hex digits>, was 'nasdaq'"
    ):
        replace(example(500), source=Source("nasdaq"))


def test_equity_refuses_series_of_different_lengths() -> None:
    with pytest.raises(ConfigError, match=r"equity series must have one length, at least 2, were .*'model': 2"):
        Equity(time_ms=np.arange(3), model=np.ones(2), buy_and_hold=np.ones(3), initial=1.0)
    with pytest.raises(ConfigError, match=r"at least 2, were .*'model': 1"):
        Equity(time_ms=np.arange(1), model=np.ones(1), buy_and_hold=np.ones(1), initial=1.0)


def test_table_of_baselines_shows_who_was_better_and_a_dash_where_a_number_does_not_apply(page: str) -> None:
    seen = _Page(page).visible
    assert "Beside the baselines" in seen
    assert "logistic regression 1.08910 nat −0.00060 nat 0.040 37.2 % −1.04 % −0.20 398" in seen
    assert "flat – – – – +0.00 % undefined 0" in seen
    assert "Of 1,000 random timings of the model's own positions, 81.2% ended below the model." in seen


def test_claims_stand_beside_what_was_measured(page: str) -> None:
    seen = _Page(page).visible
    assert "Claimed and measured" in seen
    assert "accuracy 53.8 % 37.21 % 95 %: +/- 1.1 %" in seen
    assert "names no data, period, cost or machine" in seen


def test_report_without_baselines_has_no_such_section() -> None:
    seen = _Page(render_report(BARE)).visible
    assert "Beside the baselines" not in seen
    assert "Claimed and measured" not in seen


def test_small_p_value_is_called_small_and_never_zero() -> None:
    line = replace(example(500).rivals[1], p_value=1e-9)
    seen = _Page(render_report(replace(BARE, rivals=(line,)))).visible
    assert "< 0.001" in seen
    assert "nat 0.000 " not in seen
