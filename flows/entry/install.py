"""Installs this project into the environment of the Python that runs it: by uv where it can be had, else by pip.

    .venv/bin/python flows/entry/install.py [.[extra,...]]

Needs the standard library and pip alone, for nothing else is there yet. Whatever can be is installed from a list of
hashes (`make lock`), and for a run as wheels alone, so that nothing of a package runs before it is imported. torch is
pinned, and no more: its build, and what comes with it, differs by index. The project itself comes last, built by a
setuptools that is on the list.

uv is several times as fast, but does not read pip's settings, and would take another build of torch where these name
one: so it gets what pip is set to, and the very file of torch that pip would take. Where a setting has no counterpart,
or uv fails, pip does it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "pyproject.toml"
RUN, EVERYTHING = "requirements.txt", "requirements-test.txt"
"""The lists of hashes: for a run, and with every extra."""

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
_NAMES = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS"}
_SEPARATORS = {"find-links": ","}  # uv's for a list; a space for the others
_NO_MATTER = {  # how pip talks and waits
    "cache-dir", "default-timeout", "disable-pip-version-check", "no-color", "no-input", "no-python-version-warning",
    "no-warn-script-location", "progress-bar", "quiet", "require-virtualenv", "retries", "root-user-action", "timeout",
    "verbose",
}  # fmt: skip
_GB = {True: 2.4, False: 5.6}  # of disk for the environment of a run, by whether torch is built for the CPU alone
_EXTRA_GB = 0.6  # for what tests need beside


def pip_settings(listed: str) -> dict[str, str]:
    """Return what `pip config list` says of an install, by option.

    Lines are such as `global.find-links='/wheels'`; the environment's win over a command's, these over the global ones.
    """
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for section, option, value in re.findall(r"^(global|install|:env:)\.([a-z-]+)=(?:'|\")(.*)(?:'|\")$", listed, re.M):
        found[section][option] = value.replace("\\n", " ").strip()
    return found["global"] | found["install"] | found[":env:"]


def uv_settings(settings: Mapping[str, str]) -> tuple[dict[str, str], list[str]] | None:
    """Return the environment and the arguments with which uv does what pip is set to; None where it can't."""
    environment = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip: the best of all indexes, not of the first
    arguments: list[str] = []
    for option, value in settings.items():
        if option in _NAMES:
            environment[_NAMES[option]] = _SEPARATORS.get(option, " ").join(value.split())
        elif option == "no-index" and value.lower() in ("1", "true", "yes", "on"):
            environment["UV_NO_INDEX"] = "1"
        elif option == "cert":
            environment["SSL_CERT_FILE"] = value
        elif option == "constraint":
            arguments += [part for file in value.split() for part in ("-c", file)]
        elif option not in _NO_MATTER:
            return None
    return environment, arguments


def torch_file(report: str) -> tuple[str, str]:
    """Return address and version of the torch that pip would install, from its report of a dry run."""
    (found,) = json.loads(report)["install"]
    return found["download_info"]["url"], found["metadata"]["version"]


def steps(target: str, torch: str) -> list[tuple[str, ...]]:
    """Return the arguments of each `install`, in order, for pip and uv alike."""
    wheels = ("--only-binary", ":all:")
    hashed = ("-r", EVERYTHING) if "[" in target else (*wheels, "-r", RUN)
    return [
        ("--require-hashes", "--no-deps", *hashed),
        (*wheels, torch),
        ("--no-deps", "--no-build-isolation", "-e", target),
    ]


def main(target: str) -> None:
    """Install the project, or end with pip's status; say before what it takes."""
    pinned = next(one for one in tomllib.loads(PROJECT.read_text())["project"]["dependencies"] if "torch==" in one)
    dry = ("install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-")
    report = _asked(*dry, pinned)
    torch, version = torch_file(report) if report else ("", "")
    uv, plan = _uv(), uv_settings(pip_settings(_asked("config", "list")))
    by_uv = bool(torch and uv and plan)
    size = _GB["+cpu" in version] + _EXTRA_GB * ("[" in target)
    print(
        f"installing into {os.path.relpath(sys.prefix)} with {'uv' if by_uv else 'pip'}, once: "
        f"{'half a minute' if by_uv else 'two minutes'} from a near index,\n"
        f"and {size:.1f} GB of disk; {_free_gb():.0f} GB are free",
        flush=True,
    )
    began = time.monotonic()
    if uv and torch and plan:
        environment, arguments = plan
        command = (uv, "pip", "install", "--quiet", "--python", sys.executable)
        hashed, *others = steps(target, f"torch @ {torch}")
        wanted = (hashed, *((*arguments, *step) for step in others))  # the list is exact, and takes no constraints
        by_uv = all(_status(*command, *step, environment=environment) == 0 for step in wanted)
        print("" if by_uv else "uv could not; pip tries\n", end="", flush=True)
    for step in () if by_uv else steps(target, pinned):
        if status := _status(*_PIP, "install", "--quiet", *step):
            sys.exit(status)
    _prepare_first_start()
    print(f"installed in {time.monotonic() - began:.0f} s", flush=True)


def _prepare_first_start() -> None:
    """Compile on two cores what the first start would compile on one: see `flows.entry.first_start`."""
    with tempfile.TemporaryDirectory() as home:  # nothing is left where the first run will put its data
        environment = os.environ | {"DSC_HOME": home, "PREFECT_HOME": home}
        halves = [
            subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "flows.entry.first_start", half],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for half in ("modules", "kernels")
        ]
        for half in halves:
            half.wait()


def _uv() -> str | None:
    """Return uv's path, installed beside pip where it is not there yet; None where it can't be had."""
    beside = str(Path(sys.executable).parent)
    there = shutil.which("uv") or shutil.which("uv", path=beside)
    listed = re.search(r"^uv==.*?(?=^\S)", (ROOT / EVERYTHING).read_text(), re.M | re.S)
    if there is None and listed:
        hashed = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", "/dev/stdin")
        _asked("install", "--quiet", *hashed, given=listed[0])
        there = shutil.which("uv", path=beside)
    return there


def _free_gb() -> float:
    return shutil.disk_usage(ROOT).free / 1e9


def _status(*command: str, environment: Mapping[str, str] | None = None) -> int:
    return subprocess.run(command, cwd=ROOT, env=os.environ | (environment or {}), check=False).returncode  # noqa: S603


def _asked(*arguments: str, given: str = "") -> str:
    """Return what pip prints, given something to read; nothing where it fails."""
    command = [*_PIP, *arguments]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout if done.returncode == 0 else ""


if __name__ == "__main__":
    main(*sys.argv[1:] or ["."])
