"""The page of one market of a session: how it stands, taken from the journal alone, as Markdown.

Whoever has the page open sees what was written last before they opened it, so it says as of when that is.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache

import numpy as np

from storage.schema import CLASSES, DAY_MS, FEATURES, Candles, FloatArray, Market, utc_text
from storage.written import written
from tasks.execution.limits import TradingLimits
from tasks.execution.metrics import max_drawdown, total_return
from tasks.execution.skill import log_losses
from tasks.journal.journal_reader import JournalReader
from tasks.journal.journal_rows import DIRECTIONS, OF_DOUBT, UNKNOWN_CHAMPION, Decision
from tasks.market.drift import Drift, measure_drift
from tasks.market.labels import label_bars, scored
from tasks.reporting.canvas import MARKDOWN, png_uri
from tasks.reporting.markup import markdown_text
from tasks.reporting.session_figure import Drawn, session_figure
from tasks.reporting.source_names import source_label
from tasks.reporting.version_facts import VersionFacts
from tasks.strategy.live_tick import PROBABILITIES, day_vol, forecast_vol, share_taken

_SHOWN = 10  # decisions, fills
_DRAWN = 300  # bars of the market: more are no picture of what happens now
_JUDGED = 2_000  # newest decisions by which skill, drift and latency are judged
_DRIFT_BARS = 250  # of a block that is compared with the training: only a whole new one is compared anew
_FEWEST_LABELS = 100
_SILENT_S = 60.0  # after a bar's end: a stream confirms it in a second, and REST is asked after two

_Line = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the page says beside the journal.

    Attributes:
        now_ms: This machine's clock, UTC milliseconds.
        report: Where the version's report is: an address, or where the file lies.
        ended: How the session ended, one line; empty while it runs.
        summary: What it came to, as a terminal shows it; empty while it runs.
        limits: Under which it would send orders, or does.
    """

    now_ms: float
    journal: str
    report: str = ""
    ended: str = ""
    summary: str = ""
    limits: TradingLimits = TradingLimits()


def session_page(reader: JournalReader, market: Market, facts: VersionFacts | None, shown: Shown) -> str:
    """Return the page of one market of the journal; `facts` are of the version that decides, None for none."""
    here = _Here(reader, market, facts, shown)
    parts = [
        f"# {markdown_text(market)}, {here.mode}: {here.state}",
        f"**As of {_clock(shown.now_ms)} UTC.{'' if shown.ended else ' Reload this page to see what came after.'}** "
        f"{here.label}",
        *([] if not here.trouble else [f"> **{markdown_text(here.trouble)}**"]),
        _table(("now", ""), here.now_lines()),
        *([here.picture()] if len(here.start_ms) else []),
        "## Decisions, the newest first",
        _table(("bar", "decision", "why"), here.decision_lines()),
        *(["## Fills, the newest first", _table(_FILL_HEAD, here.fill_lines())] if here.mode == "paper" else []),
        "## What decides",
        _table(("version", markdown_text(here.version or "none")), here.version_lines()),
        *here.shadow_lines(),
        *(["## What it came to", f"```\n{shown.summary}\n```"] if shown.summary else []),
        f"Report: {_link(shown.report)}" if shown.report else "",
        f"Journal: `{shown.journal}`",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_FILL_HEAD = ("open", "order", "price", "slippage", "fee, USDT")


class _Here:
    """What the journal says of a market now."""

    def __init__(self, reader: JournalReader, market: Market, facts: VersionFacts | None, shown: Shown) -> None:
        self._reader, self._market, self._facts, self._shown = reader, market, facts, shown
        self._told = reader.facts()
        self.mode = str(self._told["mode"])
        self._account = market.slug
        self.start_ms, self.equity = reader.equity(market, self._account)
        self._decisions = reader.decisions(self._account, last=_JUDGED)
        last = reader.opens(self._account, last=1)
        self._ledger = last[0].opened.ledger if last else None
        self._fills = reader.fills(self._account)
        self.version = deciding_version(reader, market)
        self._candles, _ = reader.candles(market.slug, last=_JUDGED)

    # --- how it stands ------------------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        source = str(self._told["source"])
        return markdown_text(source_label(source, self._facts.manifest.origin) if self._facts else source)  # type: ignore[arg-type]

    @cached_property
    def _halted(self) -> str:
        """Why the market is stepped no more; empty while it is."""
        notes = [(kind, said) for _, slug, kind, said in self._reader.notes() if slug == self._market.slug]
        begun = max((n for n, (kind, _) in enumerate(notes) if kind == "resumed"), default=-1)
        return next((said for kind, said in notes[begun + 1 :] if kind == "halted"), "")

    @property
    def state(self) -> str:
        """One word."""
        if self._shown.ended:
            return "ENDED"
        return "HALTED" if self._halted else "RUNNING"

    @property
    def trouble(self) -> str:
        """Why it does not run, or runs and holds nothing new; empty where all is well."""
        if self._shown.ended or self._halted:
            return self._shown.ended or self._halted
        notes = self._reader.notes()
        clock = [(kind, said) for _, _, kind, said in notes if kind.startswith("clock")]
        doubt = [(kind, said) for _, slug, kind, said in notes if slug == self._market.slug and kind in OF_DOUBT]
        for told, trouble in ((clock, "clock off"), (doubt, UNKNOWN_CHAMPION)):
            if told and told[-1][0] == trouble:
                return told[-1][1]
        if (overdue := -self._due_s) > _SILENT_S:
            return f"the next bar is {_duration(overdue)} overdue: the stream or the exchange is silent"
        return self._decisions[-1].lacks if self._decisions else ""

    @property
    def _is_replay(self) -> bool:
        return str(self._told["source"]).startswith("sandbox:")

    @property
    def _due_s(self) -> float:
        """Seconds until the next bar closes; infinite where nobody can tell."""
        if self._is_replay or not len(self.start_ms):
            return math.inf
        return float(self.start_ms[-1] + 2 * self._market.interval_ms - self._shown.now_ms) / 1e3

    def now_lines(self) -> Iterator[_Line]:
        """Yield how it stands, name and value."""
        if not len(self.start_ms):
            yield "last bar", "none has closed since it began"
            return
        last_ms, step_ms = int(self.start_ms[-1]), self._market.interval_ms
        age = "by the clock of its replay" if self._is_replay else f"{_duration(step_ms / 1e3 - self._due_s)} ago"
        yield "last bar", f"{utc_text(last_ms)}, closed {age}"
        if not self._shown.ended and not self._halted:
            due = "as soon as the replay goes on" if self._is_replay else f"in {_duration(max(self._due_s, 0.0))}"
            yield "next decision", f"{utc_text(last_ms + 2 * step_ms)}, {due}"
        yield "bars, fills", f"{len(self.start_ms):,}, {len(self._fills):,}"
        yield from self._position_lines()
        if self.mode == "paper":
            yield from self._money_lines()

    def _position_lines(self) -> Iterator[_Line]:
        ledger, mark = self._ledger, float(self._candles.close[-1])
        if ledger is None or not ledger.side:
            yield "position", "flat"
            yield "mark", f"{mark:,.10g} USDT"
            return
        coins = f" {abs(ledger.quantity):,.10g} coins" if ledger.quantity else ""
        yield (
            "position",
            f"{DIRECTIONS[ledger.side]}{coins}, held for {ledger.bars_held} bar{'s' * (ledger.bars_held != 1)}",
        )
        if self._fills:
            at_ms, _, fill = self._fills[-1]
            moved = ledger.side * (mark / fill.price - 1.0)
            yield "entry", f"{fill.price:,.10g} USDT at {utc_text(at_ms)}"
            yield "mark", f"{mark:,.10g} USDT, {written(moved, 'signed share')} since the entry"
        else:
            yield "mark", f"{mark:,.10g} USDT"

    @property
    def _worth(self) -> float:
        return self._ledger.equity(float(self._candles.close[-1])) if self._ledger else float(self.equity[0])

    def _money_lines(self) -> Iterator[_Line]:
        equity = np.append(self.equity, self._worth)
        today = int(np.searchsorted(self.start_ms, self.start_ms[-1] // DAY_MS * DAY_MS))  # its first bar
        yield "equity", f"{equity[-1]:,.2f} USDT"
        for name, before in (("today (UTC), after costs", equity[today]), ("since the start", equity[0])):
            earned = f"{equity[-1] - before:+,.2f} USDT".replace("-", "\N{MINUS SIGN}")
            yield name, f"{earned}, {written(equity[-1] / before - 1.0, 'signed share')}"
        fallen = written(1.0 - equity[-1] / equity.max(), "share")
        yield "drawdown", f"{fallen} now, {written(max_drawdown(equity), 'share')} at most"
        if self._facts is not None:
            limit = self._facts.manifest.recipe.promotion.max_drawdown
            allowed = f"; its promotion allowed {written(limit, 'share')}" if limit < 1.0 else ""
            yield "drawdown of its backtest", f"{written(self._facts.max_drawdown, 'share')} at most{allowed}"

    def picture(self) -> str:
        """Return price, trades and account, drawn."""
        newest = self._candles[-_DRAWN:]
        drawn = Drawn(
            candles=newest,
            interval_ms=self._market.interval_ms,
            trades=self._reader.turns(self._account, since_ms=int(newest.start_ms[0])),
            start_ms=self.start_ms,
            equity=self.equity,
            daily=self._facts.daily if self._facts and self.mode == "paper" else np.empty(0),
        )
        label = f"{self._market} · {self._told['source']} · {self.mode}"
        uri = png_uri(session_figure(drawn, label, MARKDOWN))
        return f"![The newest bars with what was traded, and the account since the start]({uri})"

    # --- what it did --------------------------------------------------------------------------------------------------

    def decision_lines(self) -> Iterator[Sequence[str]]:
        """Yield the newest decisions: bar, what is wanted, why."""
        for one in self._decisions[: -_SHOWN - 1 : -1]:
            sides = dict.fromkeys((DIRECTIONS[one.position], DIRECTIONS[one.wanted]))
            why = one.reason + (f"; not traded: {one.cause}" if one.cause else "")
            yield utc_text(one.start_ms), " → ".join(sides), why

    def fill_lines(self) -> Iterator[Sequence[str]]:
        """Yield the newest fills: open, order, price, slippage against the bar's first price, fee."""
        for at_ms, first, fill in self._fills[: -_SHOWN - 1 : -1]:
            slipped = 1e4 * fill.slippage / (abs(fill.change) * first)
            order = f"{fill.side} {abs(fill.change):,.10g}"
            yield utc_text(at_ms), order, f"{fill.price:,.10g}", written(slipped, "bp"), f"{fill.fee:,.2f}"

    # --- what decides -------------------------------------------------------------------------------------------------

    def version_lines(self) -> Iterator[_Line]:
        """Yield what is known of the version: age, last probabilities, drift, skill; and how fast it was."""
        if self._facts is not None:
            made_s = self._facts.ref.made_at.timestamp()
            yield "made", f"{_duration(self._shown.now_ms / 1e3 - made_s)} ago"
        own = [one for one in self._decisions if one.version == self.version and len(one.values)]
        if own:
            said = zip(CLASSES, own[-1].values[PROBABILITIES].tolist(), strict=True)
            yield "probabilities", ", ".join(f"{name} {written(p, 'share')}" for name, p in said)
            if math.isfinite(forecast := forecast_vol(own[-1].values)):
                now = written(float(own[-1].values[PROBABILITIES.start - 1]), "share as bp")
                yield "volatility of a bar", f"{now} now, {written(forecast, 'share as bp')} forecast"
                day, share = day_vol(own[-1].values, self._market.interval_ms), share_taken(own[-1].values)
                taken = f"{written(share, 'share')} of a position is taken"
                yield "volatility of 24 hours", f"{written(day, 'share')} forecast; {taken}"
                if self._facts is not None:
                    usual = self._facts.manifest.recipe.backtest.usual_share(
                        self._worth, float(self._candles.close[-1])
                    )
                    limit = self._shown.limits.of_day(usual * share * day)
                    yield "a day may lose, by orders", f"{written(limit, 'share')} with such a position, and is halted"
            if self._facts is not None:
                yield "drift of its inputs", drift_text(self._facts, own)
                yield "log-loss, live", skill_text(self._facts, own, self._candles)
        stages = {
            "feed": ([one.feed_ms for one in self._decisions], "ms"),
            "queue": ([one.queue_us for one in self._decisions], "µs"),
            "step": ([one.step_us for one in self._decisions], "µs"),
            "close to decision": ([one.late_ms for one in self._decisions], "ms"),
        }
        told = [
            f"{name} {np.percentile(known, 99):,.1f} {unit}"
            for name, (values, unit) in stages.items()
            if len(known := np.array(values)[np.isfinite(values)])
        ]
        if told:
            yield "latency, 99 of 100 within", ", ".join(told)

    def shadow_lines(self) -> Iterator[str]:
        """Yield a list of the versions that watch, one line each."""
        begins = f"{self._market.slug}@"
        lines = []
        for name in self._reader.accounts():
            if name.startswith(begins):
                _, equity = self._reader.equity(self._market, name)
                side = "".join(DIRECTIONS[bar.opened.ledger.side] for bar in self._reader.opens(name, last=1))
                fills = len(self._reader.fills(name))
                version = markdown_text(name.removeprefix(begins))
                lines.append(f"- {version}: {written(total_return(equity), 'signed share')}, {fills:,} fills, {side}")
        if lines:
            yield "## Beside it, on paper"
            yield "\n".join(lines)


def deciding_version(reader: JournalReader, market: Market) -> str:
    """Return the version that decided last, or is to decide first; empty for none."""
    decisions, takeovers = reader.decisions(market.slug, last=1), reader.takeovers(market.slug)
    return decisions[0].version if decisions else takeovers[-1][1] if takeovers else ""


def drift_text(facts: VersionFacts, decisions: Sequence[Decision]) -> str:
    """Return how far the newest whole block of a session's inputs is from the training's, in words."""
    ready = [one for one in decisions if np.isfinite(one.values).all()]
    if facts.trained_on is None:
        return f"not measured: dataset {facts.manifest.dataset} is not on this machine"
    blocks: dict[int, list[bytes]] = {}  # by the bar's number since 1970, so that only a whole new one is another
    for one in ready:
        number = one.start_ms // facts.manifest.market.interval_ms
        blocks.setdefault(number // _DRIFT_BARS, []).append(one.values[: len(FEATURES)].tobytes())
    whole = [tuple(rows) for rows in blocks.values() if len(rows) == _DRIFT_BARS]
    if not whole:
        return f"not measured: no whole block of {_DRIFT_BARS:,} bars yet"
    drift = _drift(facts, whole[-1])
    if drift is None:
        return f"not measured: too few blocks of {_DRIFT_BARS:,} bars in training"
    said = f"{FEATURES[drift.feature]} has {drift.ratio:.2f} of its limit, {drift.limit:.2f} is 1 block in 100"
    earlier = _drift(facts, whole[-2]) if len(whole) > 1 else None
    is_changed = drift.breached and earlier is not None and earlier.breached  # as `champion_drift`: one is a hint alone
    return f"**{said}: the market has changed**" if is_changed else said


@lru_cache(maxsize=32)
def _drift(facts: VersionFacts, rows: tuple[bytes, ...]) -> Drift | None:
    recent: FloatArray = np.frombuffer(b"".join(rows)).reshape(len(rows), -1)
    return None if facts.trained_on is None else measure_drift(facts.trained_on, recent)


def skill_text(facts: VersionFacts, decisions: Sequence[Decision], candles: Candles) -> str:
    """Return what a session's probabilities were worth on the labels that have matured, in words."""
    recipe, step_ms = facts.manifest.recipe, facts.manifest.market.interval_ms
    start_ms = np.array([one.start_ms for one in decisions])
    values = np.array([one.values for one in decisions])
    opened = dict(zip(candles.start_ms.tolist(), candles.open.tolist(), strict=True))
    open_ = np.array([opened.get(ms, math.nan) for ms in start_ms.tolist()])
    segment = np.cumsum(np.diff(start_ms, prepend=start_ms[0] - step_ms) != step_ms)
    vol, probabilities = values[:, PROBABILITIES.start - 1], values[:, PROBABILITIES]
    classes = label_bars(open_, vol, segment, recipe.labels, recipe.costs.round_trip).classes
    rows = scored(classes, probabilities)
    known = int(rows.sum())
    if known < _FEWEST_LABELS:
        return f"not measured: {known:,} of {_FEWEST_LABELS:,} labels have matured"
    ours = float(log_losses(probabilities[rows], classes[rows]).mean())
    prior = float(log_losses(np.broadcast_to(facts.prior, (known, len(CLASSES))), classes[rows]).mean())
    return f"{ours:.4f} nat, the class shares of its training {prior:.4f}, over {known:,} labels"


def _table(head: Sequence[str], lines: Iterator[Sequence[str]] | Iterator[_Line]) -> str:
    rows = [[markdown_text(cell) if "**" not in cell else cell for cell in line] for line in lines]
    cells = [list(head), ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) if rows else "_None yet._"


def _link(where: str) -> str:
    return f"[{markdown_text(where)}]({where})" if "://" in where else f"`{where}`"


def _clock(ms: float) -> str:
    return datetime.fromtimestamp(ms / 1e3, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _duration(seconds: float) -> str:
    """Return a time as people say it: 8 s, 12 min, 5.2 h, 3.1 days."""
    for length, unit in ((86_400.0, "days"), (3_600.0, "h"), (120.0, "min")):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}" if unit != "min" else f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s"
