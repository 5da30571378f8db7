"""The home is its owner's alone; a shared place keeps the umask that the user started with."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flows.entry.child import ROOT

PROGRAM = """
import sys, tempfile
from pathlib import Path
from storage.objects import ObjectStore
from storage.private import keep_home_private
from storage.results import ResultStore
from storage.settings import Settings
home = keep_home_private()
for place in (home, Path(sys.argv[1])):
    ObjectStore(str(place / "models")).create("a/b", b"1")
    ResultStore(place / "work").save("key-0", {"file": b"2"})
(home / "loose").write_bytes(b"3")
print(tempfile.mkstemp()[1])
"""


def modes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): f"{stat.S_IMODE(path.lstat().st_mode):03o}" for path in sorted(folder.rglob("*"))
    }


def run(home: Path, shared: Path, umask: int, **environment: str) -> str:
    command = [sys.executable, "-c", PROGRAM, str(shared)]
    given = {name: text for name, text in os.environ.items() if name != "DSC_UMASK"} | {"DSC_HOME": str(home)}
    done = subprocess.run(  # noqa: S603
        command, cwd=ROOT, env=given | environment, capture_output=True, text=True, check=True, umask=umask
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("umask", "folder", "file"), [(0o022, "755", "644"), (0o002, "775", "664"), (0o077, "700", "600")]
)
def test_home_is_its_owners_alone_and_a_shared_place_keeps_the_users_umask(tmp_path, umask, folder, file):
    home, shared = tmp_path / "home", tmp_path / "shared"
    temporary = Path(run(home, shared, umask))
    assert temporary.parent.parent == home / "tmp"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert set(modes(home).values()) == {"700", "600"}
    assert modes(shared) == {
        "models": folder, "models/a": folder, "models/a/b": file,
        "work": folder, "work/key-0.zip": file,
    }  # fmt: skip


def test_child_of_a_private_program_still_knows_the_users_umask(tmp_path):
    run(tmp_path / "home", tmp_path / "shared", 0o077, DSC_UMASK="027")
    assert modes(tmp_path / "shared")["models/a/b"] == "640"


HOLD = """
import sys, tempfile
from storage.private import keep_home_private
keep_home_private()
print(keep_home_private() and tempfile.mkdtemp(), flush=True)
sys.stdin.read()
"""


@pytest.mark.promise(19)
def test_temporary_files_of_a_killed_process_go_and_those_of_a_living_one_stay(tmp_path):
    environment = os.environ | {"DSC_HOME": str(tmp_path / "home")}

    def started() -> tuple[subprocess.Popen, Path]:
        child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", HOLD], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return child, Path(child.stdout.readline().strip())

    (living, kept), (killed, lost) = started(), started()
    assert kept.is_dir()
    assert lost.is_dir()
    killed.kill()
    killed.wait()  # and no more: its folder goes with the next start
    (tmp_path / "home" / "tmp" / "loose").write_text("of nobody")
    os.mkfifo(tmp_path / "home" / "tmp" / "pipe")
    (tmp_path / "home" / "tmp" / "link").symlink_to(tmp_path)
    last, own = started()
    assert sorted((tmp_path / "home" / "tmp").iterdir()) == sorted(
        [kept.parent, own.parent, tmp_path / "home" / "tmp" / "link"]  # a link may lead anywhere
    )
    for child in (living, killed, last):
        child.communicate()
