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


@pytest.mark.parametrize("target", ["run", "paper", "ui", "test", "verify", "lint", "clean"])
def test_variable_that_is_mistyped_is_refused_with_the_nearest_name(target):
    done = dry_run(target, "SYMBLE=BTCUSDT")
    assert done.returncode == 2
    assert "SYMBLE is no variable of this Makefile; did you mean SYMBOL?" in done.stderr
    assert done.stdout == ""


def test_variables_of_the_environment_and_of_prefect_are_nobodys_typing_error():
    assert dry_run("run", SYMBLE="BTCUSDT", CI="true", PREFECT_API_URL="http://127.0.0.1:4200/api").returncode == 0
    assert dry_run("run", "PREFECT_API_URL=http://127.0.0.1:4200/api", "DSC_HOME=/tmp/x").returncode == 0


def test_every_variable_that_a_recipe_reads_is_known():
    makefile = (ROOT / "Makefile").read_text()
    (known,) = re.findall(r"^KNOWN := ((?:.*\\\n)*.*)$", makefile, re.M)
    read = set(re.findall(r"call (?:option,--[a-z.-]+|quoted),\$\(([A-Z]+)\)", makefile)) | {"ARGS", "BARS"}
    assert read <= set(known.replace("\\", "").split()) | {"UNKNOWN"}
