"""What every room's tests may ask for: real data, a home of their own, Prefect."""

import fcntl
import gc
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import localcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[object]:
    """Collect in one worker before the others: in a fresh environment it compiles its imports, half a minute."""
    with (session.config.rootpath / "pyproject.toml").open() as turn:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # the first one collects
            fcntl.flock(turn, fcntl.LOCK_SH)
        gc.disable()  # a million objects that stay, which it would go through again and again until the last test
        try:
            return (yield)
        finally:
            gc.freeze()
            gc.enable()


def worked_through_by_one(path: str) -> str:
    """Return what goes to one worker as a whole: a file, or the folder whose files share the one system."""
    folder = "tests/e2e"
    return folder if path.startswith(f"{folder}/") else path


@pytest.hookimpl(optionalhook=True)  # it is of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep files together, as `--dist loadfile` does, and those of a folder that shares what takes long to start."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return worked_through_by_one(super()._split_scope(nodeid))

    return Together(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the random order, but for what costs minutes there: see the markers `long` and `ends_file`."""
    files = [item.nodeid.partition("::")[0] for item in items]
    first = {worked_through_by_one(file): number for number, file in reversed([*enumerate(files)])}

    def place(item: pytest.Item) -> tuple[bool, int, bool]:
        marked, file = {mark.name for mark in item.iter_markers()}, item.nodeid.partition("::")[0]
        return "long" not in marked, first[worked_through_by_one(file)], "ends_file" in marked

    items.sort(key=place)


@pytest.fixture
def real_data() -> Path:
    """Return the folder of real candles, or skip."""
    folder = os.environ.get("DSC_TEST_DATA")
    if not folder:
        pytest.skip("real candles are not at hand: DSC_TEST_DATA is not set")
    return Path(folder)


@contextmanager
def process_as_found() -> Iterator[None]:
    """Undo what a program, or ccxt, does to a whole process: umask, temporary files, Ctrl-C, a Decimal's rounding."""
    names = ("TMPDIR", "DSC_UMASK")
    saved, interrupt = {name: os.environ.get(name) for name in names}, signal.getsignal(signal.SIGINT)
    umask = os.umask(0o022)
    os.umask(umask)
    with localcontext():
        yield
    os.umask(umask)
    signal.signal(signal.SIGINT, interrupt)
    tempfile.tempdir = None
    for name, text in saved.items():
        os.environ.pop(name, None)
        if text is not None:
            os.environ[name] = text


@pytest.fixture(scope="module", autouse=True)
def process_restored_after_a_module() -> Iterator[None]:
    """Give the next module the process as this one found it, whatever its fixtures started."""
    with process_as_found():
        yield


@pytest.fixture(autouse=True)
def process_restored_after_a_test() -> Iterator[None]:
    """Give the next test the process as this one found it."""
    with process_as_found():
        yield


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Give the test a DSC_HOME of its own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("DSC_HOME", str(folder))
    for name in ("DSC_ARTIFACT_URL", "DSC_BYBIT_LIVE_KEY", "DSC_BYBIT_LIVE_SECRET"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def free_port() -> Iterator[Callable[[], int]]:
    """Return a finder of ports of 127.0.0.1 that nobody else is given while the session lasts.

    Each stays bound: beside that a server may listen which sets SO_REUSEADDR, as all of ours do, and no other socket.
    """
    with ExitStack() as held:

        def find() -> int:
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

        yield find


@pytest.fixture(scope="session")
def s3_bucket():
    """Serve S3 on 127.0.0.1 for the whole session, child processes included, and give the URL of a bucket."""
    pytest.importorskip("s3fs", reason="s3fs serves s3:// URLs; it is not installed")
    moto = pytest.importorskip("moto.server", reason="moto stands in for S3; it is not installed")
    import fsspec

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(variable, "moto")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory):
    """Run flows against the one Prefect server of a whole run; other processes may run theirs there meanwhile."""
    from tests.prefect_server import shared

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "prefect"
    folder.mkdir(exist_ok=True)
    with shared(folder, tmp_path_factory.mktemp("results")):
        yield
