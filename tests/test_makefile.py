"""What is given to `make` is one word of the shell, whatever is in it; a name that it does not know is refused."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def dry_run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return what make would do, as if everything were installed."""
    command = ["make", "-n", "-o", ".venv/installed", "-o", ".venv/installed-test", *arguments]
    apart = {key: text for key, text in os.environ.items() if not key.startswith("MAKE")}  # tests may run under make
    return subprocess.run(command, cwd=ROOT, env=apart | environment, capture_output=True, text=True, check=False)  # noqa: S603


@pytest.mark.promise(19)
@pytest.mark.parametrize(
    ("target", "name", "option"),
    [
        ("run", "SYMBOL", "--symbol"),
        ("run", "CANDLES", "--candles"),
        ("run", "START", "--start"),
        ("paper", "BARS", "--steps"),
        ("ui", "PORT", "--port"),
        ("soak", "SEED", "--seed"),
    ],
)
def test_variable_is_one_word(target, name, option):
    given = "a b'; touch bad; '"
    done = dry_run(target, f"{name}={given}")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[words.index(option) + 1] == given


@pytest.mark.parametrize(
    ("target", "given", "nearest"),
    [("run", "SYMBLE", "SYMBOL"), ("paper", "BAR", "BARS"), ("ui", "PROT", "PORT"), ("test", "ARG", "ARGS")],
)
def test_variable_that_is_mistyped_is_refused_with_the_nearest_name(target, given, nearest):
    done = dry_run(target, f"{given}=BTCUSDT")
    assert done.returncode == 2
    assert f"{given} is no variable of make {target}; did you mean {nearest}?" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("target", "given"), [("ui", "SYMBOL"), ("run", "BARS"), ("run", "SEED"), ("lint", "EXCHANGE"), ("clean", "START")]
)
def test_variable_of_another_target_is_refused(target, given):
    done = dry_run(target, f"{given}=1")
    assert done.returncode == 2
    assert f"{given} is no variable of make {target};" in done.stderr
    assert done.stdout == ""


def test_variables_of_the_environment_and_of_prefect_are_nobodys_typing_error():
    assert dry_run("run", SYMBLE="BTCUSDT", CI="true", PREFECT_API_URL="http://127.0.0.1:4200/api").returncode == 0
    assert dry_run("run", "PREFECT_API_URL=http://127.0.0.1:4200/api", "DSC_HOME=/tmp/x").returncode == 0


def test_every_variable_that_a_recipe_reads_is_taken_by_its_target():
    makefile = (ROOT / "Makefile").read_text()
    flags = makefile.partition("FLAGS = ")[2].partition("\n\n")[0]
    read = r"call (?:option,--[a-z.-]+|quoted),\$\((?:or \$\()?([A-Z]+)"
    taken = set()
    for target in ("run", "paper", "ui", "attack", "soak"):
        recipe = re.search(rf"^{target}: .*\n((?:\t.*\n)+)", makefile, re.M)[1].replace("$(FLAGS)", flags)
        for name in sorted(set(re.findall(read, recipe))):
            assert dry_run(target, f"{name}=1").returncode == 0, (target, name)
            taken.add(name)
    assert {"SYMBOL", "BARS", "PORT", "SEED", "KILLS"} <= taken
