"""Ctrl-C or SIGTERM on a run by hand: one line, status 130 or 143, a few seconds, whatever computes at that moment."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

_MOST_HEARD = 4096
_LAST_WORD_S = 4.0  # what an interrupted run gets to report its end to the server


def leave_on_interrupt() -> None:
    """End the program at once on Ctrl-C or SIGTERM, as long as it only imports what it needs."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: _leave(number))


@contextmanager
def interruptible() -> Iterator[None]:
    """End the program with one line on Ctrl-C or SIGTERM, also where whoever started it has Ctrl-C ignored.

    The run gets a few seconds to report its end. Whatever still computes then, in a thread or in compiled code, ends
    with the process, and the server with its parent.

    A flow replaces what SIGTERM calls, and a library may make another error of what is raised then; so the number of a
    signal is also read from where Python writes it, whoever handles it. A session ends well on SIGTERM: that raises
    nothing, and is no interruption.
    """
    interrupted = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = number
        signal.signal(number, signal.SIG_IGN)  # once is enough
        logging.disable()  # what Prefect has to say of it is a traceback
        last_word = threading.Timer(_LAST_WORD_S, _leave, (number,))
        last_word.daemon = True
        last_word.start()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    heard, told = os.pipe()
    for end in (heard, told):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    try:
        yield
    except BaseException:
        with suppress(BlockingIOError):  # nothing was heard
            if signal.SIGTERM in os.read(heard, _MOST_HEARD):
                interrupted = interrupted or signal.SIGTERM
        raise
    finally:
        signal.set_wakeup_fd(-1)
        if interrupted:  # whatever was made of it on its way
            _leave(interrupted)


def _leave(number: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write("interrupted; the same command goes on from what is finished\n")
    sys.stderr.flush()
    os._exit(128 + number)  # without a wait for threads that compute
