"""What the product imports is what pyproject.toml declares: nothing is there only because another library needs it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ROOMS = ("flows", "tasks", "storage")
LISTS = {"requirements.txt": (), "requirements-test.txt": ("test", "oracles", "dask", "s3")}
"""Extras whose libraries each list of hashes holds, beside those of a run."""
OF_TORCH = re.compile(r"torch|triton|(cuda|nvidia)-.*")
NEVER_IMPORTED = {"plotly"}  # a file of it stands in every report


def named(text: str) -> str:
    """Return a requirement's or a distribution's name, spelled in one way."""
    return re.split(r"[^\w.-]", text)[0].lower().replace("_", "-")


def declared() -> tuple[set[str], set[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    always = {named(one) for one in project["dependencies"]}
    return always, always | {named(one) for extra in ("dask", "s3") for one in extras[extra]}


def imported() -> set[str]:
    found = set()
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    distributions = packages_distributions()
    others = found - set(sys.stdlib_module_names) - set(ROOMS)
    return {named(one) for name in others for one in distributions.get(name, [name])}


def test_every_library_that_is_imported_is_declared():
    assert imported() - declared()[1] == set()


def test_every_library_that_is_declared_is_imported():
    assert declared()[0] - imported() == NEVER_IMPORTED


def listed(name: str) -> dict[str, tuple[str, int]]:
    """Return version and number of hashes of each library on a list."""
    found = {}
    for block in re.split(r"\n(?=\S)", (ROOT / name).read_text()):
        if block.startswith("#"):
            continue
        pinned = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==([\w.]+)(?: ; [^\\]+)? \\\n", block)
        assert pinned, block
        hashes = block[pinned.end() :].rstrip("\n").replace(" \\\n", "\n").splitlines()
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", one) for one in hashes), block
        found[named(pinned[1])] = (pinned[2], len(set(hashes)))
    return found


def needed(extras: tuple[str, ...]) -> set[str]:
    """Return every library that the project brings with these extras on this machine, but for torch's own build."""
    found: set[tuple[str, str]] = set()
    todo = [("dsc-trading", extra) for extra in ("", *extras)]
    while todo:
        name, extra = one = todo.pop()
        if one in found or OF_TORCH.fullmatch(name):
            continue
        found.add(one)
        for text in requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(named(requirement.name), part) for part in ("", *requirement.extras)]
    return {name for name, _ in found} - {"dsc-trading"}


@pytest.mark.promise(19)
@pytest.mark.parametrize("name", LISTS)
def test_whatever_is_installed_is_on_the_list_with_its_version_and_hashes_and_torch_is_not(name):
    pinned = listed(name)
    assert all(hashes for _, hashes in pinned.values())
    assert not [one for one in pinned if OF_TORCH.fullmatch(one)]
    try:
        here = {one: version(one) for one in needed(LISTS[name])}
    except PackageNotFoundError as err:
        pytest.skip(f"{err.name} is not installed")
    assert {one: pinned.get(one, ("missing", 0))[0] for one in here} == here


@pytest.mark.promise(19)
def test_a_run_and_a_test_have_the_same_versions_and_the_build_backend_is_one_of_them():
    run, everything = (listed(name) for name in LISTS)
    assert run.items() <= everything.items()
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert backend == f"setuptools=={run['setuptools'][0]}"
