"""Runs a flow by hand with the same parameters as its deployment: `python -m flows.<name> --help`.

What a person sees is the display of its stages and then what it came to; Prefect's own lines go to a log.
"""

import contextlib
import errno
import functools
import logging
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psutil
from prefect import Flow
from prefect.context import get_settings_context
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.configuration import setup_logging
from prefect.logging.handlers import PrefectConsoleHandler, _SafeStreamHandler
from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH, get_current_settings, temporary_settings

from flows.entry.child import LOG_BYTES
from flows.entry.command_help import command_app
from flows.entry.environment import prefect_home
from flows.entry.interrupt import interruptible
from flows.entry.refusals import shorten_refusals
from flows.entry.server import server_at_hand
from storage.private import keep_home_private
from storage.schema import PipelineError, StoreError
from tasks.exchange.connection import ExchangeConfig
from tasks.runs.display import duration, showing

Facts = Sequence[tuple[str, str]]
"""Name and value of what is worth a line at the end."""

_LEAST_FREE_MB = 64  # on a full disk Prefect's server ends in pages of traceback before the first step can say why

_OF_THE_DISK = (errno.EACCES, errno.EDQUOT, errno.EIO, errno.ENOLCK, errno.ENOSPC, errno.EPERM, errno.EROFS)
_ON_THE_TERMINAL = (PrefectConsoleHandler, _SafeStreamHandler)
_UNSAID = "a candle file does not say what its market is"
_HANG = 12  # columns that the rest of a line stands in


def run_by_hand(
    flow: Flow[..., Any],
    examples: Sequence[str],
    summary: Callable[[Any, Facts], str] | None = None,
    status: Callable[[Any], int] = lambda result: 0,
    libraries: Sequence[str] = (),
) -> NoReturn:
    """Parse the command line into the parameters of `flow`, run it, say what it came to, and end the program.

    The exit status is 0, or what `status` makes of the result; 1 when the run was refused or failed with one of our
    errors; 2 for a bad command line; 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        examples: Command lines for the help's first screen, without `python -m`.
        summary: Returns the text that stands last, from the result and further facts about the run; None for a flow
            that prints for itself.
        libraries: Modules that the flow imports late.
    """
    # The page of a run lasts no longer than a server that was started for it.
    shorten_refusals(*(() if get_current_settings().api.url else ("View at http",)))

    @functools.wraps(flow.fn)
    def command(*args: Any, **kwargs: Any) -> int:
        with interruptible():
            for given in (*args, *kwargs.values()):
                if isinstance(given, ExchangeConfig):
                    given.source  # noqa: B018 - reads the files that it names, before a server is started for them
            home = prepared_home()
            log = log_to_file(home)
            # What failed runs leave lies in the home too, where it is pruned.
            kept = temporary_settings({PREFECT_LOCAL_STORAGE_PATH: prefect_home(home) / "storage"})
            with showing(), kept, server_at_hand(home, libraries):
                result = flow(*args, **kwargs)
        if summary is not None:
            total = duration(time.time() - psutil.Process().create_time())
            said = summary(result, (("log", str(log)), ("total", total)))
            print(_fitted(said) if sys.stdout.isatty() else said)
        return status(result)

    try:
        with plain_errors():
            ended_with = command_app(command, examples)(with_category(sys.argv[1:])) or 0
    except SystemExit as refused:
        if not isinstance(refused.code, str):
            raise
        print(refused.code, file=sys.stderr)
        ended_with = 1
    _leave(ended_with)


def with_category(arguments: Sequence[str]) -> list[str]:
    """Return a command line that says what the market of a candle file is, which no such file does.

    Where nobody is there to be asked, it is taken for linear, and a line says so.
    """
    given = {one.partition("=")[0] for one in arguments}
    if "--candles" not in given or given & {"--category", "--help", "--help-all"}:
        return list(arguments)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        print(f"{_UNSAID}: taken for linear; --category spot if it is spot", file=sys.stderr)
        return list(arguments)
    while True:
        print(f"{_UNSAID}: is it linear or spot? [linear] ", end="", file=sys.stderr, flush=True)
        said = sys.stdin.readline().strip().lower() or "linear"
        if said in ("linear", "spot"):
            return [*arguments, "--category", said]


def _leave(status: int) -> NoReturn:
    """End the program without the seconds in which Python takes apart what it loaded; all that was to be written is.

    After an error DuckDB's binding would also list, in 30 lines, what the traceback keeps from being taken apart.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _fitted(text: str) -> str:
    """Return a text as it stands below the stages on a terminal: apart from them, and broken between words."""
    columns = shutil.get_terminal_size().columns
    wrapped = (
        textwrap.wrap(line, columns, subsequent_indent=" " * _HANG, break_on_hyphens=False)
        if max(map(len, line.split()), default=0) + _HANG < columns
        else [line]  # an address that is longer than a line is best left whole
        for line in text.splitlines()
    )
    return "\n".join(["", *("\n".join(lines) for lines in wrapped)])


def log_to_file(home: Path) -> Path:
    """Send what the loggers write to the terminal to a file instead, and return where it is."""
    path = home / "logs" / "run.log"
    path.parent.mkdir(exist_ok=True)
    setup_logging()  # as Prefect does at the first run; later calls leave handlers alone
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a thread may outlive its run, and then Prefect takes its lines no more
    file = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    file.setFormatter(logging.root.handlers[0].formatter)
    for logger in (logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)):
        for handler in [one for one in logger.handlers if type(one) in _ON_THE_TERMINAL]:
            logger.removeHandler(handler)
            logger.addHandler(file)
    return path


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with one line where something is refused or Prefect's server is not there."""
    try:
        yield
    except PipelineError as err:
        sys.exit(f"{type(err).__name__}: {err}")
    except OSError as err:
        if err.errno not in _OF_THE_DISK:
            raise
        sys.exit(f"StoreError: can't use {err.filename or 'the disk'} ({err.strerror}); free space or set DSC_HOME")
    except PrefectHTTPStatusError as err:
        url = get_current_settings().api.url
        if err.response.status_code == httpx.codes.UNAUTHORIZED:
            sys.exit(
                f"{url} asks for its home's secret; put what the file `secret` there holds into PREFECT_API_AUTH_STRING"
            )
        if err.response.status_code not in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
            raise
        sys.exit(f"no Prefect API at {err.request.url}; its address must end in /api, was {url} in {_address_giver()}")
    except (httpx.TransportError, RuntimeError) as err:
        if "API" not in str(err) and not isinstance(err, httpx.TransportError):
            raise
        way_out = f"start it, or change or remove that address, which ends in /api, in {_address_giver()}"
        sys.exit(f"Prefect can't be reached at {get_current_settings().api.url} ({err}); {way_out}")


def _address_giver() -> str:
    """Return where the address of Prefect's server was found, in words."""
    if "PREFECT_API_URL" in os.environ:
        return "the variable PREFECT_API_URL"
    profile = get_settings_context().profile
    if PREFECT_API_URL in profile.settings:
        return f"profile {profile.name!r} of {profile.source}"
    return f"prefect.toml, pyproject.toml or .env in {Path.cwd()}"


def prepared_home() -> Path:
    """Return the home, and PREFECT_HOME made: both can be written and have room for a run.

    Raises:
        StoreError: One can't, or has not.
    """
    home = keep_home_private()
    folder = prefect_home(home)
    try:
        folder.mkdir(parents=True, exist_ok=True)  # Prefect's own server does not make it
    except OSError as err:
        raise StoreError(f"PREFECT_HOME must be a writable folder, {folder} is not ({err.strerror})") from err
    for name, place in (("DSC_HOME", home), ("PREFECT_HOME", folder)):
        free_mb = shutil.disk_usage(place).free / 1e6
        if free_mb < _LEAST_FREE_MB:
            raise StoreError(
                f"{name} must have {_LEAST_FREE_MB} MB free, {place} has {free_mb:.1f}; free space or set {name}"
            )
    return home
