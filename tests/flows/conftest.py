"""What flow tests share beside Prefect."""

from collections.abc import Iterator

import pytest

from tests.flows.small_jobs import side_work_left_out


@pytest.fixture
def small_jobs() -> Iterator[None]:
    """Keep the jobs of a test small: without what each version has beside its model."""
    with side_work_left_out():
        yield
