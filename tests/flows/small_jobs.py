"""Makes a small job small: most of its time goes into what each version has beside its model, tested elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tasks.execution.random_positions import random_positions
from tasks.market.leaks import LeakCheck
from tasks.network.baseline_config import BaselineConfig
from tasks.reporting import figures, report, run_page
from tasks.strategy import baseline_comparison, leak_suite, speed

FEW_BASELINES = BaselineConfig(strengths=(0.01,), leaves=(2,), most_trees=20, twin=False)


@contextmanager
def side_work_left_out() -> Iterator[None]:
    """Leave networks untimed, charts undrawn, most random timings untried, and leaks unsought but in the inputs."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_side_work(patch.setattr)
        yield


def leave_out_side_work(put=setattr) -> None:
    """Leave it out for good, in a process that does nothing else."""
    put(speed, "measure_latency", lambda networks, on_progress: [])
    put(leak_suite, "leak_checks", leaks_of_inputs)
    put(leak_suite, "checks_of_code", lambda work: ())
    put(baseline_comparison, "random_positions", partial(random_positions, draws=20))
    put(report, "_pictures", lambda data: dict.fromkeys(report._PICTURES, ""))
    for page, drawn in ((figures, "draw_equity"), (run_page, "draw_training")):  # those of the run's page
        put(page, drawn, lambda *given: None)
    for page in (report, run_page):
        put(page, "png_uri", lambda figure: "")


def leaks_of_inputs(samples: Any, interval_ms: int, recipe: Any, fold: object) -> Iterator[LeakCheck]:
    """Yield the first leak check: the others train, and the main job's tests run them all."""
    yield leak_suite.remade_inputs(samples, interval_ms, recipe)


def dask_setup(worker: object) -> None:
    """Leave it out in a Dask worker that preloads this module."""
    leave_out_side_work()
