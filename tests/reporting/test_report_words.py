"""What the report says in words: the source, the verdict, each number beside what it is compared with."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from matplotlib.image import imread

from storage.schema import Source
from tasks.champion.promotion import Check
from tasks.reporting import report
from tasks.reporting.report import render_report, summary_markdown
from tasks.reporting.report_data import ReportData
from tests.reporting.example_report import example
from tests.reporting.read_page import Page


@pytest.fixture(scope="module", autouse=True)
def without_charts() -> Iterator[None]:
    """Leave the charts of the page undrawn, which take most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_pictures", lambda data: dict.fromkeys(report._PICTURES, ""))
        yield


@pytest.fixture(scope="module")
def page(without_charts: None) -> str:
    return render_report(example())


PASSED = (Check(name="closed trades", passed=True, found="412", wanted=">= 100"),)


def with_judgement(**changed: object) -> ReportData:
    """Return the short example with another judgement."""
    data = example(500)
    return replace(data, manifest=replace(data.manifest, judgement=replace(data.manifest.judgement, **changed)))


def test_verdict_comes_first_then_why_then_evidence(page: str) -> None:
    seen = Page(page).visible
    places = [
        seen.index(words)
        for words in (
            "SYNTHETIC a made-up market: says nothing about a real one",
            "Not promoted: no position is taken",
            "5 of 7 conditions hold. Not met:",
            "net result at 1.5x costs −7.42 % > 0 % lead over the champion p = 0.71 p < 0.05",
            "Sharpe ratio, daily",
            "Funding is switched off",
            "pass unseen days 83 >= 30",
            "fail net result at 1.5x costs −7.42 % > 0 %",
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
    assert Page(markup).visible.split(ribbon)[1]  # the first word that is seen
    assert f"<strong>{ribbon}</strong>" in markup.partition("<h1>")[0]
    assert label in markup.partition("<header>")[2].partition("</header>")[0]
    headings = re.findall(r"<h2>(.*?)</h2>", markup)[1:]  # behind the verdict's
    assert len(headings) == 14
    if origin != "exchange":
        assert all(label in heading for heading in headings)
    assert f"**SYNTHUSDT linear 5m · {label}**" in summary_markdown(data)


@pytest.mark.parametrize("checks", [None, PASSED], ids=["kept", "promoted"])
def test_fixed_wording_never_implies_profit(page: str, checks: tuple[Check, ...] | None) -> None:
    data = example(500) if checks is None else with_judgement(checks=checks)
    seen = Page(page if checks is None else render_report(data)).visible + summary_markdown(data)
    allowed = re.sub(r"profit factor|win rate|windows?\b|mean edge( of a move, before costs)?", "", seen, flags=re.I)
    claims = r"profit|\bearn|guarantee|outperform|\bbeat|\bwin|opportunit|\bwill\b|promis|success|edge\b"
    assert re.findall(claims, re.sub(r"base64,\S+", "", allowed), re.IGNORECASE) == []
    assert seen.count("It is no forecast and no advice.") == 3  # beside the verdict, at the foot, under the summary


def test_page_says_what_its_numbers_are_of(page: str) -> None:
    seen = Page(page).visible
    for said in (
        "log-loss of the side against 50:50: p = ",  # a p-value beside the interval of another number
        "172 trials: 12 of this market here, 160 behind the default preset",
        "Kept are the weights of the last step, wherever the validation loss was least",
        "A position opens with 95.0 % of the equity",
        "this model 0.212 – – 0.51 9.0 % EWMA-100 0.335 +0.123",
        "forecast windows below it 5 % quantile 4.0 %",
        "The first line is the trained model, called again and again by itself",
        *("mean edge", "calibration error", "Diebold-Mariano", "QLIKE", "EWMA, HAR"),
    ):
        assert said in seen, said


def test_headline_names_the_decision_and_the_champion() -> None:
    champion = "20260103T100000Z-00c0ffee"
    promoted = Page(render_report(with_judgement(checks=PASSED, champion=champion))).visible
    assert "Promoted: meets every condition and replaces 20260103T100000Z-00c0ffee" in promoted
    assert "1 of 1 conditions hold." in promoted
    first = Page(render_report(with_judgement(checks=PASSED))).visible
    assert "Promoted: meets every condition and replaces flat (no position)" in first
    kept = Page(render_report(with_judgement(champion=champion))).visible
    assert "Not promoted: 20260103T100000Z-00c0ffee stays in force" in kept


def test_condition_that_was_not_run_is_neither_passed_nor_failed() -> None:
    checks = (
        Check(name="closed trades", passed=False, found="3", wanted=">= 100"),
        Check(name="second seed", passed=None, found="not run", wanted="> 0 %"),
    )
    data = with_judgement(checks=checks)
    seen = Page(render_report(data)).visible
    assert "0 of 2 conditions hold. Not met:" in seen
    assert "condition found asked closed trades 3 >= 100 Not run: second seed." in seen
    assert "fail closed trades 3 >= 100 open second seed not run > 0 %" in seen
    assert "| **open:** second seed | not run |" in summary_markdown(data)


def test_table_of_baselines_shows_who_was_better_and_a_dash_where_a_number_does_not_apply(page: str) -> None:
    seen = Page(page).visible
    assert "Beside the baselines" in seen
    assert "logistic regression 1.08910 nat −0.00060 nat 0.040 37.2 % −1.04 % −0.20 398" in seen
    assert "flat – – – – +0.00 % undefined 0" in seen
    assert "Of 1,000 random timings of the model's own positions, with its exposure and turnover, 81.2 % ended" in seen


def test_sessions_on_paper_stand_beside_the_backtest_of_their_candles(page: str) -> None:
    seen = Page(page).visible
    assert "On paper" in seen
    newer, older = seen.index("btc-tuesday"), seen.index("btc-monday")
    assert "it has not ended" in seen[newer:older]
    assert "+1.32 %" in seen[older : older + 200]
    assert "1,998 of 2,000" in seen[older : older + 200]


def test_claims_stand_beside_what_was_measured(page: str) -> None:
    seen = Page(page).visible
    assert "Claimed and measured" in seen
    assert "accuracy on unseen bars 54.2 % 53.8 % 37.15 % 37.21 % 95 %: ± 2.1 %; three classes" in seen
    assert "weights, bytes – – 68,000 41,000 safetensors, float32" in seen
    assert "CPU time of a window, K=9, eager torch 12.3 ms 1.8 ms 1,424.0 µs 1,424.0 µs median" in seen
    assert "names no data, period, cost or machine" in seen


def test_small_p_value_is_called_small_and_never_zero() -> None:
    data = example(500)
    line = replace(data.comparison.table[1], p_value=1e-9)
    seen = Page(render_report(replace(data, comparison=replace(data.comparison, table=(line,))))).visible
    assert "< 0.001" in seen
    assert "nat 0.000 " not in seen


def test_summary_says_verdict_conditions_and_numbers_and_carries_one_picture() -> None:
    summary = summary_markdown(example())
    assert summary.startswith("# Not promoted: no position is taken\n")
    assert "| **fail:** net result at 1.5x costs | −7.42 % | &gt; 0 % |" in summary
    assert "> **Funding is switched off: positions held over a funding stamp cost nothing here.**" in summary
    assert "- **Net return −2.11 %**: " in summary
    (uri,) = re.findall(r"!\[[^\]]*\]\(data:image/png;base64,([^)]+)\)", summary)
    picture = imread(io.BytesIO(base64.b64decode(uri, validate=True)), format="png")
    assert picture.shape[1] == 844  # 760 points at 80 dots an inch
