"""Ctrl-C on a run by hand: one line, status 130, a few seconds, whatever computes at that moment."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_STATUS = 128 + signal.SIGINT
_LAST_WORD_S = 4.0  # what an interrupted run gets to report its end to the server


def leave_on_interrupt() -> None:
    """End the program at once on Ctrl-C, as long as it only imports what it needs."""
    signal.signal(signal.SIGINT, lambda number, frame: _leave())


@contextmanager
def interruptible() -> Iterator[None]:
    """End the program with one line on Ctrl-C, also where whoever started it has the signal ignored.

    The run gets a few seconds to report its end. Whatever still computes then, in a thread or in compiled code, ends
    with the process, and the server with its parent.
    """
    is_interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_interrupted
        is_interrupted = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
        logging.disable()  # what Prefect has to say of it is a traceback
        last_word = threading.Timer(_LAST_WORD_S, _leave)
        last_word.daemon = True
        last_word.start()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if is_interrupted:  # whatever was made of it on its way: a library may turn it into an error of its own
            _leave()


def _leave() -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write("interrupted; the same command goes on from what is finished\n")
    sys.stderr.flush()
    os._exit(_STATUS)  # without a wait for threads that compute
