"""Makes a small job small: most of its time goes into what each version has beside its model, tested elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest

from tasks.execution.random_positions import random_positions
from tasks.network.baseline_config import BaselineConfig
from tasks.reporting import figures, report, run_page
from tasks.strategy import baseline_comparison, leak_suite, speed

FEW_BASELINES = BaselineConfig(strengths=(0.01,), leaves=(2,), most_trees=20, twin=False)


@contextmanager
def side_work_left_out() -> Iterator[None]:
    """Leave networks untimed, charts undrawn and most random timings untried, and look for leaks without a teacher."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_side_work(patch.setattr)
        yield


def leave_out_side_work(put=setattr) -> None:
    """Leave it out for good, in a process that does nothing else."""
    put(speed, "measure_latency", lambda networks, on_progress: [])
    put(leak_suite, "_FIT", replace(leak_suite._FIT, distil=0.0))
    put(baseline_comparison, "random_positions", partial(random_positions, draws=20))
    put(report, "_pictures", lambda data: dict.fromkeys(report._PICTURES, ""))
    for page, drawn in ((figures, "draw_equity"), (run_page, "draw_training")):  # those of the run's page
        put(page, drawn, lambda *given: None)
    put(report, "png", lambda figure: b"")
    put(run_page, "png", lambda figure: b"")


def dask_setup(worker: object) -> None:
    """Leave it out in a Dask worker that preloads this module."""
    leave_out_side_work()
