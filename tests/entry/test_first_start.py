"""What is compiled at the installation is what a first run calls."""

import json
import os
import subprocess
import sys

import pytest
from prefect.settings import get_current_settings

pytestmark = pytest.mark.long
SCRIPT = """
import gc, json, sys
from dataclasses import replace
from numba.core.dispatcher import Dispatcher
from flows.entry.first_start import compile_kernels
from flows.retrain import retrain
from tests.flows.dying_retrain import EXCHANGE, MARKET, RECIPE
from tasks.strategy import leak_suite
from tests.flows.small_jobs import leave_out_side_work
from flows.ingest import ingest

def signatures():
    found = [one for one in gc.get_objects() if isinstance(one, Dispatcher)]
    return {(one.py_func.__module__, one.py_func.__name__, str(sig)) for one in found for sig in one.signatures}

checks = leak_suite.leak_checks, leak_suite.checks_of_code
leave_out_side_work()
leak_suite.leak_checks, leak_suite.checks_of_code = checks  # which call what nobody else does
leak_suite._FIT = replace(leak_suite._FIT, distil=0.0)
compile_kernels()
before = signatures()
ingest(market=MARKET, exchange=EXCHANGE)
retrain(market=MARKET, exchange=EXCHANGE, recipe=RECIPE)
called = {one for one in signatures() - before if one[0].startswith(("tasks.", "storage."))}
json.dump([len(before), sorted(called)], open(sys.argv[1], "w"))
"""


def test_retrain_calls_nothing_compiled_that_the_installation_has_not_compiled(prefect_api, home, tmp_path):
    found = tmp_path / "found.json"
    # What is loaded from Numba's cache counts as compiled here, and half a minute is saved.
    environment = os.environ | {"PREFECT_API_URL": get_current_settings().api.url}
    subprocess.run([sys.executable, "-c", SCRIPT, found], check=True, env=environment)  # noqa: S603  # the code above
    compiled, more = json.loads(found.read_text())
    assert compiled >= 8
    assert more == []
