"""Keys: one pair an environment, and nowhere to be seen."""

from __future__ import annotations

import copy
import pickle

import pytest

from storage.api_keys import ApiKey
from storage.schema import ConfigError

GIVEN = {"DSC_BYBIT_DEMO_KEY": "publicpart", "DSC_BYBIT_DEMO_SECRET": "hunter2"}


def test_each_environment_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in GIVEN.items():
        monkeypatch.setenv(name, text)
    monkeypatch.delenv("DSC_BYBIT_LIVE_KEY", raising=False)
    found = ApiKey.of("demo")
    assert (found.environment, found.key, found.secret) == ("demo", "publicpart", "hunter2")
    with pytest.raises(ConfigError, match="orders on live need a key of their own: DSC_BYBIT_LIVE_KEY and "):
        ApiKey.of("live")


def test_key_without_its_secret_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="DSC_BYBIT_DEMO_SECRET not set") as caught:
        ApiKey.of("demo", {"DSC_BYBIT_DEMO_KEY": "publicpart"})
    assert "publicpart" not in str(caught.value)


@pytest.mark.parametrize("text", ["hunter 2", "hunter2\n", '"hunter2"', "hünter2"])
def test_what_was_copied_badly_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="the secret of demo must be letters and digits") as caught:
        ApiKey.of("demo", GIVEN | {"DSC_BYBIT_DEMO_SECRET": text})
    assert "hunter" not in str(caught.value)


def test_key_is_in_no_repr_and_can_t_be_written() -> None:
    key = ApiKey.of("demo", GIVEN)
    for shown in (repr(key), str(key), f"{key}", repr([key])):
        assert "publicpart" not in shown
        assert "hunter2" not in shown
    for write in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="never written"):
            write(key)
