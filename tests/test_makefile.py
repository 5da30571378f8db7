"""What is given to `make` is one word of the shell, whatever is in it."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.promise(19)
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
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
    nothing_installed = ["-o", ".venv/installed", "-o", ".venv/installed-test"]
    command = ["make", "-n", *nothing_installed, target, f"{name}={given}"]
    apart = {key: text for key, text in os.environ.items() if not key.startswith("MAKE")}  # tests may run under make
    done = subprocess.run(command, cwd=ROOT, env=apart, capture_output=True, text=True, check=True)  # noqa: S603
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[words.index(option) + 1] == given
