"""The home's secret: made once, for its owner's eyes."""

import os
import re
import stat
import subprocess
import sys

import pytest

from storage.schema import ConfigError
from storage.secret import home_secret, secret_path

pytestmark = pytest.mark.promise(18)


def test_secret_is_random_and_only_its_owner_can_read_it(tmp_path):
    homes = [tmp_path / "one", tmp_path / "two"]
    for home in homes:
        home.mkdir()
    before = os.umask(0)  # the most careless one
    try:
        first, second = (home_secret(home) for home in homes)
    finally:
        os.umask(before)
    assert first != second
    assert re.fullmatch(r"dsc:[A-Za-z0-9_-]{43}", first)  # 43 characters of 64 hold 256 bits
    assert stat.S_IMODE(secret_path(homes[0]).stat().st_mode) == 0o600


def test_secret_is_the_same_for_every_process_that_asks_first(tmp_path):
    ask = (
        "import sys; from pathlib import Path; from storage.secret import home_secret; "
        "print(home_secret(Path(sys.argv[1])))"
    )
    asking = [
        subprocess.Popen([sys.executable, "-c", ask, str(tmp_path)], stdout=subprocess.PIPE, text=True)  # noqa: S603
        for _ in range(4)
    ]
    answers = {process.communicate()[0].strip() for process in asking}
    assert answers == {home_secret(tmp_path)}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_secret_that_others_can_read_is_refused_and_not_shown(tmp_path, mode):
    secret = home_secret(tmp_path)
    secret_path(tmp_path).chmod(mode)
    with pytest.raises(ConfigError, match=r"nobody else can read, was -rw.* of user .*; delete it") as refused:
        home_secret(tmp_path)
    assert secret.split(":")[1] not in str(refused.value)


@pytest.mark.parametrize("text", ["", "dsc:", "dsc:short", "admin:" + "x" * 43, "dsc:" + "x" * 44])
def test_damaged_secret_is_refused_and_not_shown(tmp_path, text):
    home_secret(tmp_path)
    secret_path(tmp_path).write_text(text)
    with pytest.raises(ConfigError, match=r"must hold a secret as it was made, it does not; delete it") as refused:
        home_secret(tmp_path)
    assert not text or text not in str(refused.value)
