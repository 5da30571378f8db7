"""Ctrl-C or SIGTERM on a run by hand: one line, status 130 or 143, at once, nothing left; also where it was ignored."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.entry.child import ROOT

pytestmark = pytest.mark.long
SAID = "interrupted; the same command goes on from what is finished\n"
WAIT_S = 300.0  # a busy machine is no failure
COMMAND = ["-m", "flows.pipeline", "--synthetic.bars", "6500", "--folds.folds", "2", "--fit.epochs", "400"]


def starting(home: Path) -> bool:
    """Whether the interpreter has begun to import what a flow needs."""
    return True


def training(home: Path) -> bool:
    """Whether the dataset is there, which is what training begins with."""
    return any((home / "datasets").glob("*.zip"))


@pytest.mark.parametrize("moment", [starting, training])
def test_run_is_interrupted_with_one_line(tmp_path, moment: Callable[[Path], bool]):
    home = tmp_path / "home"
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("PREFECT_", "DSC_"))}
    run = subprocess.Popen(  # noqa: S603
        [sys.executable, *COMMAND], cwd=ROOT, env=kept | {"DSC_HOME": str(home)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a shell's background job inherits it
    )  # fmt: skip
    deadline, handled = time.monotonic() + WAIT_S, psutil.Process(run.pid)
    while not (moment(home) and takes_interrupts(handled)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = handled.children(recursive=True)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=WAIT_S)
    assert run.returncode == 130, errors
    assert errors.endswith(SAID)
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(family, timeout=WAIT_S)
    assert alive == []


@pytest.mark.parametrize(
    "made_of_it", ["raise RuntimeError('no API') from err", "raise SystemExit(1) from err", "pass"]
)
def test_interrupt_ends_the_run_whatever_a_library_makes_of_it(made_of_it: str):
    code = (
        "import os, signal, time\nfrom flows.entry.interrupt import interruptible\n"
        "with interruptible():\n    try:\n        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(60)\n"
        f"    except KeyboardInterrupt as err:\n        {made_of_it}\n"
    )
    assert ended(code) == (130, "", SAID)


@pytest.mark.parametrize("made_of_it", ["raise RuntimeError('Query interrupted') from None", "raise"])
def test_sigterm_ends_a_flow_with_one_line_whatever_a_library_makes_of_it(made_of_it: str):
    code = (
        "import os, signal, time\nfrom prefect.exceptions import TerminationSignal\n"
        "from prefect.utilities.engine import capture_sigterm\nfrom flows.entry.interrupt import interruptible\n"
        "with interruptible(), capture_sigterm():\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        f"        time.sleep(60)\n    except TerminationSignal as err:\n        {made_of_it}\n"
    )
    assert ended(code) == (143, "", SAID)


def test_sigterm_waits_for_no_thread_that_computes():
    code = (
        "import os, signal, threading\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "from prefect.utilities.engine import capture_sigterm\nfrom flows.entry.interrupt import interruptible\n"
        "with interruptible(), capture_sigterm(), ThreadPoolExecutor() as beside:\n"
        "    for_ever = beside.submit(threading.Event().wait)\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    for_ever.result()\n"
    )
    assert ended(code) == (143, "", SAID)


def test_session_that_ends_well_on_sigterm_was_not_interrupted():
    code = (
        "import os, signal\nfrom flows.entry.interrupt import interruptible\nwith interruptible():\n"
        "    signal.signal(signal.SIGTERM, lambda number, frame: None)\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('summary')"
    )
    assert ended(code) == (0, "summary\n", "")


def ended(code: str) -> tuple[int, str, str]:
    """Run a program, and return its status and what it wrote."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    return done.returncode, done.stdout, done.stderr


def takes_interrupts(process: psutil.Process) -> bool:
    """Whether a process handles SIGINT itself."""
    caught = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigCgt" in line)
    return bool(int(caught.split()[1], 16) & 1 << (signal.SIGINT - 1))
