"""Ctrl-C or SIGTERM on a run by hand: one line, status 130 or 143, a few seconds, whatever computes at that moment."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

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

    A flow replaces what SIGTERM calls, and a library may make another error of what is raised then, or wait for its
    threads first; so a thread listens to the numbers that Python writes of every signal. A session has its own way to
    end on SIGTERM, which is no interruption.
    """
    interrupted = 0

    def begin_last_word(number: int) -> None:
        nonlocal interrupted
        interrupted = number
        logging.disable()  # what Prefect has to say of it is a traceback
        last_word = threading.Timer(_LAST_WORD_S, _leave, (number,))
        last_word.daemon = True
        last_word.start()

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough
        begin_last_word(number)
        raise KeyboardInterrupt

    def listen() -> None:
        while number := os.read(heard, 1)[0]:
            if number == signal.SIGTERM and _ends_the_run(signal.getsignal(number)):
                begin_last_word(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.write(told, b"\0")  # behind whatever was heard
        listener.join()
        for end in (heard, told):
            os.close(end)
        if interrupted:  # whatever was made of it on its way
            _leave(interrupted)


def _ends_the_run(handler: object) -> bool:
    """Whether what handles SIGTERM is the one here or a flow's, and not a session's."""
    return getattr(handler, "__module__", "").partition(".")[0] in (__name__.partition(".")[0], "prefect")


def _leave(number: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write("interrupted; the same command goes on from what is finished\n")
    sys.stderr.flush()
    os._exit(128 + number)  # without a wait for threads that compute
