"""Pages that are written again while a run goes on: one artifact each, and nothing that goes wrong reaches the run."""

import threading
from collections.abc import Iterator

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.runs import live_page
from tasks.runs.live_page import LivePage, kept_up

WAIT_S = 60.0


@pytest.fixture
def hurried(monkeypatch) -> None:
    monkeypatch.setattr(live_page, "_BEAT_S", 0.01)
    monkeypatch.setattr(live_page, "EVERY_S", 0.05)
    monkeypatch.setattr(live_page, "_LAST_WORD_S", WAIT_S)


class Book:
    """Pages that say how often they were asked for."""

    def __init__(self, *keys: str) -> None:
        self.keys, self.asked, self.enough = keys, 0, threading.Event()

    def __call__(self) -> Iterator[LivePage]:
        self.asked += 1
        if self.asked >= 4:
            self.enough.set()
        for key in self.keys:
            yield LivePage(key, f"about {key}", f"written {self.asked} times")


def artifacts(key: str) -> list[Artifact]:
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


def test_each_page_stays_one_artifact_of_the_run_and_is_written_a_last_time(prefect_api, hurried):
    book, errors = Book("live-page-one", "live-page-two"), []

    @flow
    def run() -> str:
        with kept_up(book, lambda: None, errors.append):
            assert book.enough.wait(WAIT_S)
        return flow_run.id

    run_id = run()
    assert errors == []
    for key in book.keys:
        with get_client(sync_client=True) as client:
            collected = client.request("GET", "/artifacts/{key}/latest", path_params={"key": key}).json()
        (artifact,) = artifacts(key)
        assert str(artifact.flow_run_id) == run_id
        assert (artifact.data, artifact.description) == (f"written {book.asked} times", f"about {key}")
        assert collected["data"] == artifact.data  # what a key's page leads to


def test_server_that_is_gone_is_told_of_once_and_costs_the_run_nothing(prefect_api, hurried, free_port):
    book, errors, told = Book("live-page-lost"), [], []
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}),
        kept_up(book, lambda: told.append(None), errors.append),
    ):
        assert book.enough.wait(WAIT_S)
    assert len(told) >= 4
    assert len(errors) == 1
    assert errors[0].startswith("the run's page is not up to date (Connect")


def test_page_that_can_t_be_made_is_told_of_once_and_later_ones_are_written(prefect_api, hurried):
    book, errors = Book("live-page-late"), []

    def fails_at_first() -> Iterator[LivePage]:
        if book.asked < 2:
            book.asked += 1
            raise ValueError("no bars yet")
        return book()

    with kept_up(fails_at_first, lambda: None, errors.append):
        assert book.enough.wait(WAIT_S)
    assert errors == ["the run's page is not up to date (ValueError: no bars yet)"]
    with get_client(sync_client=True) as client:
        (artifact,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["live-page-late"]))
        )
    assert artifact.data == f"written {book.asked} times"


def test_error_of_the_run_itself_passes_and_the_last_page_is_written(prefect_api, hurried):
    book = Book("live-page-failed")
    with pytest.raises(RuntimeError, match="the run's own"), kept_up(book, lambda: None, pytest.fail):
        raise RuntimeError("the run's own")
    assert book.asked >= 1
