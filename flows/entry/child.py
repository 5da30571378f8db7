"""Processes that end with the one that started them, however that one ends.

    python -m flows.entry.child <module> [argument ...]

runs a module as `python -m` does, and ends it when its parent is gone: politely at once, for good ten seconds later. A
parent that is killed can tell nobody, so the child looks. Prefect's worker starts its flow runs in the same way, since
the work pool says so.
"""

import contextlib
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from flows.entry.refusals import shorten_refusals

ROOT = Path(__file__).parents[2]

LOG_BYTES = 10_000_000
"""The longest that a log gets; as much of what was before is kept."""

_PARENT = "DSC_PARENT_PID"  # a parent that is gone before the child's first look is known by it
_LOOK_S = 0.5
_GRACE_S = 10.0  # a flow run that was stopped reports so to the server, where that one still lives
_STOP_S = 30.0  # a flow run on a busy machine needs some of it to report that it was stopped


def child_command(*module: str) -> list[str]:
    """Return the command that runs a module, with its arguments, as a child of whoever starts it."""
    return [sys.executable, "-m", __name__, *module]


def start_child(
    module: Sequence[str], *, environment: Mapping[str, str], log: Path, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a module as a child in a session of its own, its output behind that of earlier ones in `log`.

    Ctrl-C in the terminal reaches this process alone, which then stops its children in order.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    bound_log(log)
    with log.open("ab") as out:
        return subprocess.Popen(  # noqa: S603
            child_command(*module),
            cwd=ROOT,
            env={**environment, _PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )


def bound_log(log: Path) -> None:
    """Move what a child's log holds to `<log>.1` once that is more than 10 MB; the child goes on, at its beginning.

    A line that the child writes at that very moment may be lost.
    """
    with contextlib.suppress(OSError):  # a full disk: it stays as it is
        if log.stat().st_size > LOG_BYTES:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)  # whoever has it open appends


def end_family(child: subprocess.Popen[bytes], stop_s: float = _STOP_S) -> None:
    """Stop a child and all its descendants: politely, then for good.

    A worker ends its flow runs itself; one that was killed can't, and each run has a session of its own. `stop_s` is
    what it may take to end by itself, and then its descendants.
    """
    try:
        family = psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(stop_s)
    if child.poll() is None:
        child.kill()
        child.wait()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=stop_s)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def end_with_parent(parent: int) -> None:
    """Watch the parent, a process id, from a thread; once it is gone, stop this process."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _run(module: str, arguments: Sequence[str]) -> None:
    # A child of a background shell job inherits "ignored", and Prefect stops on this signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent(int(os.environ.get(_PARENT) or os.getppid()))
    os.environ[_PARENT] = str(os.getpid())  # of whatever this one starts
    shorten_refusals()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run(sys.argv[1], sys.argv[2:])
