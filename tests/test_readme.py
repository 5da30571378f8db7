"""The README says what is there: its commands exist, its map is the house, its picture is in the repository."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
]


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_make_command_names_a_target_and_variables_that_the_makefile_knows(command):
    makefile = (ROOT / "Makefile").read_text()
    _, target, *variables = command.split()
    assert re.search(rf"^{target}:", makefile, re.M)
    for variable in variables:
        assert f"$({variable.split('=')[0]})" in makefile


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m ([a-z_.]+)", README))))
def test_python_command_names_a_module_that_runs(module):
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert '__name__ == "__main__"' in Path(spec.origin).read_text()


def test_service_starts_the_session_that_the_readme_starts():
    (unit,) = set(re.findall(r"`([a-z/]+\.service)`", README))
    (started,) = re.findall(r"^ExecStart=/opt/dsc/(.*)$", (ROOT / unit).read_text(), re.M)
    assert started in COMMANDS


def test_map_names_every_room_and_only_rooms_that_exist():
    rows = re.findall(r"^\| (`[a-z_/]+/`(?:, `[a-z_/]+/`)*) \|", README, re.M)
    named = {folder for row in rows for folder in re.findall(r"`([a-z_/]+)/`", row)}
    rooms = {f"tasks/{path.name}" for path in (ROOT / "tasks").iterdir() if (path / "__init__.py").exists()}
    assert named - {"flows", "storage", "tests"} == rooms
    for folder in named:
        assert (ROOT / folder).is_dir()


def test_flows_named_in_the_map_are_the_flows_there_are():
    (row,) = re.findall(r"^\| `flows/` \| (.*) \|$", README, re.M)
    modules = {path.stem for path in (ROOT / "flows").glob("*.py") if "@flow(" in path.read_text()}
    assert set(re.findall(r"`([a-z_]+)`", row)) == modules


def test_pictures_are_in_the_repository():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).stat().st_size < 300_000


def test_top_level_holds_what_was_asked_for_and_what_tools_need():
    wanted = {"pyproject.toml", "README.md", "flows", "tasks", "storage", "tests", "prefect.yaml"}
    tooling = {"Makefile", "requirements.txt", "requirements-test.txt", ".ci", ".gitignore", "docs", "LICENSE"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout  # noqa: S607
    top = {line.split("/")[0] for line in tracked.splitlines()}
    if not top:
        pytest.skip("not a git checkout")
    assert wanted <= top <= wanted | tooling


@pytest.mark.promise(18)
def test_nothing_that_the_readme_starts_listens_everywhere():
    schedulers = re.findall(r"dask scheduler[^`]*", README)
    assert schedulers
    assert all(re.search(r"--host (127|10|192\.168)\.", command) for command in schedulers)
