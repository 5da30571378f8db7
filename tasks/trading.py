"""Trading task: one session from its first bar to its summary, and what a backtest says of the same bars."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from storage.artifacts import ArtifactStore
from storage.schema import Market, VersionRef, utc_text
from storage.settings import Settings
from storage.whole_file import replace_file
from tasks.champion.version_selector import newest_version
from tasks.exchange.connection import ExchangeConfig
from tasks.journal.journal import Journal
from tasks.journal.journal_reader import JournalReader
from tasks.journal.journal_rows import Decision
from tasks.live.market_session import MarketSession
from tasks.live.outcome import SessionResult, signal_line
from tasks.live.run import run_session
from tasks.live.session_plan import SessionPlan
from tasks.reporting.session_page import Shown, deciding_version, session_page
from tasks.reporting.version_facts import VersionFacts
from tasks.runs.alerts import raise_alert
from tasks.runs.display import advance, say
from tasks.runs.live_page import LivePage, kept_up
from tasks.runs.page import page_key, report_link


@task(cache_policy=NO_CACHE, task_run_name="{plan.mode} session")
def hold_session(plan: SessionPlan) -> SessionResult:
    """Step markets as their bars close, until so many have or somebody stops it; then replay them.

    Raises:
        StoreBusyError: Another process has a session of one of the markets.
        StoreError: The session's journal can't be written, or is of another session.
    """
    from tasks.champion.prediction import predict_history  # with torch: who deploys the flow does without

    settings = Settings.from_environment()
    stepped = traded = 0

    def tell(session: MarketSession, decision: Decision) -> None:
        nonlocal stepped, traded
        if plan.mode == "signal":
            _print_line(json.dumps(signal_line(session, decision)))
        stepped, traded = session.counts.stepped, session.own.traded

    def tell_progress() -> None:  # which asks a server, and so never by the session's own thread
        if plan.most_bars and plan.mode == "paper":
            advance(stepped / plan.most_bars, f"{stepped:,} of {plan.most_bars:,} bars, {traded} fills")

    def tell_stop() -> None:
        pages.ended = "it was stopped"
        tell_line("stopping after the present bar ...")

    def tell_line(line: str) -> None:
        print(line, file=sys.stderr) if plan.mode == "signal" else say(line)

    def tell_begin(journal: Journal) -> None:
        pages.begin(journal)
        for market in plan.markets:
            candles, _ = journal.reader().candles(market.slug, last=1)
            if bars := journal.reader().decided(market.slug):
                tell_line(f"{market}: goes on after bar {utc_text(int(candles.start_ms[-1]))}, {bars:,} stepped so far")

    plan, log = plan.named(), get_run_logger()
    pages = _Pages(plan, settings)
    with kept_up(pages, tell_progress, log.warning):
        try:
            result = run_session(
                plan, settings, predict_history, on_decision=tell, on_note=log.info, on_stop=tell_stop,
                on_open=tell_begin, on_alert=lambda line: raise_alert("halt", str(plan.exchange.source), line),
            )  # fmt: skip
        except BaseException as err:
            pages.ended = f"it failed ({type(err).__name__}: {err})"
            raise
        pages.ended, pages.summary = pages.ended or "its bars are done", result.text()
    if plan.mode == "paper":
        replace_file(settings.home / "paper.json", (json.dumps(result.numbers, indent=1) + "\n").encode())
    return result


class _Pages:
    """The page of each market, read from the journal at each call.

    Attributes:
        ended: How it ended; empty while it runs.
    """

    def __init__(self, plan: SessionPlan, settings: Settings) -> None:
        self.ended = self.summary = ""
        self._plan, self._datasets = plan, settings.datasets
        self._store = ArtifactStore(settings.models)
        self._journal: Path | None = None
        self._known: dict[VersionRef, VersionFacts] = {}

    def begin(self, journal: Journal) -> None:
        """Show that journal from now on."""
        self._journal = journal.path

    def __call__(self) -> Iterator[LivePage]:
        """Yield the pages as they are now; none before there is a journal."""
        if self._journal is None:
            return
        source = self._plan.exchange.source
        with JournalReader.of(self._journal) as reader:
            for market in self._plan.markets if reader.facts() else ():
                version = deciding_version(reader, market)
                ref = VersionRef(source=source, name=market.slug, version=version) if version else None
                shown = Shown(
                    now_ms=time.time() * 1e3,
                    journal=str(self._journal),
                    report=(report_link(ref) or self._store.location(ref, "report.html")) if ref else "",
                    ended=self.ended,
                    summary=self.summary,
                    limits=self._plan.config.limits,
                )
                about = f"Session of {market} from {source}, {self._plan.mode}"
                markdown = session_page(reader, market, self._facts(ref) if ref else None, shown)
                yield LivePage(page_key("session", source, market), about, markdown)

    def _facts(self, ref: VersionRef) -> VersionFacts:
        if ref not in self._known:
            self._known[ref] = VersionFacts.load(self._store, self._datasets, ref)
        return self._known[ref]


def _print_line(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # nobody reads any more: the session ends as when it is stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGTERM)


def lacks_a_version(exchange: ExchangeConfig, market: Market) -> bool:
    """Return whether no version of a market is stored."""
    store = ArtifactStore(Settings.from_environment().models)
    return newest_version(store, exchange.source, market) is None
