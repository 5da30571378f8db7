"""What the product imports is what pyproject.toml declares: nothing is there only because another library needs it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("flows", "tasks", "storage")
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
