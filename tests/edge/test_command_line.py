"""The command line: whatever stops a flow is one line with the way out."""

import shutil
import sys
from types import SimpleNamespace

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.command_line import run_by_hand
from flows.monitor import monitor

pytestmark = pytest.mark.usefixtures("process_restored")


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # sys.argv is what is tested
def test_server_that_is_not_there_is_named(home, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["monitor"])
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),  # the port of a service that nobody runs
        pytest.raises(SystemExit, match=r"be reached at http://127\.0\.0\.1:9/api .* start it, check PREFECT_API_URL"),
    ):
        run_by_hand(monitor)


def test_home_that_cannot_be_written_is_refused_before_anything_starts(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DSC_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(sys, "argv", ["monitor"])
    with pytest.raises(SystemExit, match=r"StoreError: DSC_HOME must be a writable folder, .* \(File exists\); set"):
        run_by_hand(monitor)


def test_full_disk_is_refused_before_anything_starts(home, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["monitor"])
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1_500_000))
    with pytest.raises(SystemExit, match=r"StoreError: DSC_HOME must have 64 MB free, .*home has 1\.5; free space or"):
        run_by_hand(monitor)
