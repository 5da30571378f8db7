"""Pages of a run that are written again while it goes on: in place, by a thread of their own, at its leisure.

An open page of the UI does not refresh, and a key's page lists only what was made under it; so each page stays one
artifact, and says as of when it is. What goes wrong here is logged once and costs the run nothing.
"""

import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import NamedTuple
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.runs.overall import root_run

EVERY_S = 10.0
"""Seconds between two writings: each is a request, and the page goes over the wire as a whole."""

_BEAT_S = 1.0
_REST = 10.0  # times what the pages took: the pages of many markets are written less often
_ANSWER_S = 4.0  # a server that takes longer is asked again next time
_LAST_WORD_S = 6.0  # what the run waits for the last writing


class LivePage(NamedTuple):
    """A page as it is now.

    Attributes:
        key: Lower case, digits and dashes; it stays the same.
        about: One line above it.
    """

    key: str
    about: str
    markdown: str


@contextmanager
def kept_up(
    render: Callable[[], Iterable[LivePage]], tell: Callable[[], object], on_error: Callable[[str], object]
) -> Iterator[None]:
    """Write pages now and again for as long as the block lasts, and once more when it is over.

    Another thread calls `render` for the pages as they are now, and every second `tell`, for what else a run tells its
    server. `on_error` is told of the first error, one line.
    """
    over, run = threading.Event(), root_run()

    def write() -> None:
        written: dict[str, UUID] = {}
        told, due_s = False, 0.0
        while True:
            is_over = over.wait(_BEAT_S)
            try:
                with temporary_settings({PREFECT_API_REQUEST_TIMEOUT: _ANSWER_S, PREFECT_CLIENT_MAX_RETRIES: 0}):
                    tell()
                    if not is_over and monotonic() < due_s:
                        continue
                    began_s = monotonic()
                    due_s = began_s + EVERY_S
                    with get_client(sync_client=True) as client:
                        for page in render():
                            _put(client, page, written, run)
                    due_s = max(due_s, monotonic() + _REST * (monotonic() - began_s))
            except Exception as err:  # whatever it is, the run goes on
                if not told:
                    on_error(f"the run's page is not up to date ({type(err).__name__}: {err})")
                told = True
            if is_over:
                return

    # With the settings and the run of whoever calls: a thread has none of them by itself.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(write,), name="live page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_LAST_WORD_S)


def _put(client: SyncPrefectClient, page: LivePage, written: dict[str, UUID], run: UUID | None) -> None:
    if page.key in written:
        # Not by `client.update_artifact`, which also sends an event with the whole page in it, to be kept for a week.
        client.request(
            "PATCH",
            "/artifacts/{id}",
            path_params={"id": written[page.key]},
            json=ArtifactUpdate(data=page.markdown, description=page.about).model_dump(mode="json", exclude_unset=True),
        )
    else:
        new = ArtifactCreate(key=page.key, type="markdown", description=page.about, data=page.markdown, flow_run_id=run)
        written[page.key] = client.create_artifact(new).id
