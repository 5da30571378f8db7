"""One coarse task a market, in this process or on a Dask cluster, and how each of them ended.

In this process they run one after the other: torch's random numbers and its number of threads belong to the process, so
two trainings at once would no longer repeat bit for bit, and each would be in the other's timings. A Dask worker is a
process of its own; one that was given several threads still does one market at a time.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import Task
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from storage.schema import ClusterError, ConfigError, Market, MarketsError, one_line
from storage.settings import Settings, pasteable
from tasks.runs.page import put_table
from tasks.strategy.provenance import project_hash

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner

    from tasks.reporting.summary import Verdict  # with torch: an ingest needs none

_LOOK_EVERY_S = 0.5
_MOST = 1_000  # characters of an error: one of ours names files and a way out
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one market ended.

    Attributes:
        verdict: What its retrain came to; None if it failed.
        error: Why it failed, one line; empty if it did not.
    """

    market: Market
    verdict: Verdict | None = None
    error: str = ""

    @classmethod
    def of(cls, market: Market, ended: Verdict | BaseException) -> Outcome:
        """Return the outcome of a step that returned `ended`, or raised it."""
        if isinstance(ended, BaseException):
            return cls(market=market, error=error_line(ended))
        return cls(market=market, verdict=ended)

    @property
    def line(self) -> str:
        """How it ended, for a terminal."""
        if self.verdict is None:
            return f"{self.market}: FAILED - {self.error}"
        headline = "PROMOTED" if self.verdict.promoted else "NOT PROMOTED"
        return f"{self.market}: {headline} - {self.verdict.reason}; {self.verdict.version}"

    def row(self) -> dict[str, str]:
        """Return the outcome as a line of a table."""
        if self.verdict is None:
            return {"market": str(self.market), "ended": f"FAILED: {self.error}", "version": ""}
        return {
            "market": str(self.market),
            "ended": f"ok: {self.verdict.reason}",
            "version": str(self.verdict.version),
        }


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """How every market of a run ended, in the order asked for.

    Attributes:
        panel: Where the page of all markets lies; empty where it could not be written.
    """

    each: tuple[Outcome, ...]
    panel: str = ""

    def text(self, facts: Sequence[tuple[str, str]] = ()) -> str:
        """Return what a terminal shows when every market has had its line.

        `facts` are further lines at the end, name and value.
        """
        promoted = sum(outcome.verdict is not None and outcome.verdict.promoted for outcome in self.each)
        headline = f"{'PROMOTED' if promoted else 'NOT PROMOTED'} - {promoted} of {len(self.each)} markets."
        page = [("markets", Path(self.panel).absolute().as_uri())] if self.panel else []
        rows = [*page, *facts, ("next", f"what each market needs: {pasteable('flows.monitor')}")]
        return "\n".join([headline, *(f"  {name:<7}  {value}" for name, value in rows)])

    def show(self) -> None:
        """Put one line a market into the Prefect UI."""
        put_table("markets", [outcome.row() for outcome in self.each], "How each market ended")

    def require_all(self) -> None:
        """Refuse to call a run done that did not do every market.

        Raises:
            MarketsError: One failed.
        """
        failed = [f"{outcome.market} ({outcome.error})" for outcome in self.each if outcome.verdict is None]
        refuse_failures(failed, len(self.each))


def error_line(err: BaseException) -> str:
    """Return an error in one line: nothing in it steers a terminal, and no key is left in an address."""
    return f"{type(err).__name__}: {one_line(err, _MOST) or 'no reason was given'}"


def refuse_failures(failed: Sequence[str], markets: int) -> None:
    """Refuse to call a run done in which one of its markets failed.

    Raises:
        MarketsError: There is one.
    """
    if failed:
        raise MarketsError(f"{len(failed)} of {markets} markets failed, the others are done: {'; '.join(failed)}")


def distinct(market: Market, symbols: Sequence[str]) -> tuple[Market, ...]:
    """Return the market of each symbol; category and interval are those of `market`.

    Raises:
        ConfigError: A symbol is none, or named twice.
    """
    markets = tuple(Market(symbol=name, category=market.category, interval=market.interval) for name in symbols)
    twice = sorted({name for name in symbols if symbols.count(name) > 1})
    if twice:
        raise ConfigError(f"symbols must be different, {', '.join(twice)} is there more than once")
    return markets


@contextmanager
def alone_on_equal_code(code: str) -> Iterator[None]:
    """Let one market at a time through in this process, on the code of the flow that asks for it.

    `code` is the flow's `project_hash`.

    Raises:
        ClusterError: This process runs other code: its versions would carry another hash than the flow expects.
    """
    if code != project_hash():
        raise ClusterError(
            f"worker and flow must run the same code, was {project_hash()[:16]} on the worker and {code[:16]} in the "
            "flow; install one version of the package on both, and start them again"
        )
    with _ONE_AT_A_TIME:
        yield


def run_each(
    step: Task[..., Verdict], calls: Mapping[Market, Mapping[str, Any]]
) -> Iterator[tuple[Market, Verdict | BaseException]]:
    """Run a step for each market, and yield what it returned or raised; one market's failure stops no other."""
    left = dict(calls)
    try:
        for market, ended in _run_each(step, calls) if calls else ():
            del left[market]
            yield market, ended
    except ClusterError as err:
        yield from dict.fromkeys(left, err).items()


def _run_each(
    step: Task[..., Verdict], calls: Mapping[Market, Mapping[str, Any]]
) -> Iterator[tuple[Market, Verdict | BaseException]]:
    settings = Settings.from_environment()
    if settings.dask_address is None:
        threads: Any = ThreadPoolTaskRunner(max_workers=1)  # its stubs know coroutines alone
        with threads:
            here = {market: threads.submit(step, dict(arguments)) for market, arguments in calls.items()}
            yield from ((market, _ended(future)) for market, future in here.items())
        return
    with _cluster(settings.dask_address, settings.dask_wait_s) as runner:
        there = {market: runner.submit(step, dict(arguments)) for market, arguments in calls.items()}
        lost = _watch(runner, list(there.values()), settings.dask_wait_s)
        yield from ((market, _ended(future) if _done(future) else lost) for market, future in there.items())


@contextmanager
def _cluster(address: str, wait_s: float) -> Iterator[DaskTaskRunner]:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as err:
        raise ClusterError("DSC_DASK_ADDRESS needs prefect-dask: pip install 'dsc-trading[dask]', or unset it") from err
    with DaskTaskRunner(address=address, client_kwargs={"timeout": wait_s}) as runner:
        try:
            client: Any = runner.client  # untyped
            workers = client.nthreads()
        except (OSError, ValueError) as err:  # nobody listens; or it is no address
            raise ClusterError(
                f"no Dask scheduler at {address}, waited {wait_s:g} s ({type(err).__name__}: {err}); start it, or "
                "unset DSC_DASK_ADDRESS to retrain in this process"
            ) from err
        get_run_logger().info(f"dask scheduler={address} workers={len(workers)}")
        yield runner


def _watch(runner: DaskTaskRunner, futures: Sequence[Any], wait_s: float) -> ClusterError:
    """Return when every future is done, or the cluster has had no worker for `wait_s`: Dask would wait for ever."""
    lost = ClusterError(
        f"the Dask cluster at {runner.address} had no worker for {wait_s:g} s; start one that has this package, "
        "and run it again"
    )
    log, seen, told = get_run_logger(), time.monotonic(), False
    while not all(map(_done, futures)):
        if _has_workers(runner):
            seen, told = time.monotonic(), False
        elif time.monotonic() - seen > wait_s:
            break
        elif not told:
            log.warning(f"dask scheduler={runner.address} workers=0; waiting {wait_s:g} s for one")
            told = True
        time.sleep(_LOOK_EVERY_S)
    return lost


def _done(future: Any) -> bool:
    return bool(future.wrapped_future.done())


def _has_workers(runner: DaskTaskRunner) -> bool:
    client: Any = runner.client  # untyped
    try:
        return bool(client.nthreads())
    except (OSError, RuntimeError, AttributeError):  # the scheduler is gone; so are, soon, its futures
        return False


def _ended(future: Any) -> Verdict | BaseException:
    """Return what a finished step returned or raised."""
    try:
        found: Verdict | BaseException = future.result(raise_on_failure=False)
    except concurrent.futures.CancelledError:  # Dask's word for a future whose scheduler has gone
        return ClusterError("the Dask scheduler went away while this market was trained; run it again")
    except Exception as err:  # whatever it is, it is this market's alone
        if "deserializ" in str(err):
            return ClusterError(
                f"the Dask scheduler can't load the step; install this package there and on every worker "
                f"({err.__cause__})"
            )
        return err
    return found
