"""What flow tests share beside Prefect."""

from collections.abc import Iterator

import pytest

from tasks.strategy import speed


@pytest.fixture(scope="module")
def twins_untimed() -> Iterator[None]:
    """Leave the timing of four networks in every runtime out: half a small job's time, and of its own tests a part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "measure_latency", lambda networks, on_progress: [])
        yield
