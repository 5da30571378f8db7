"""A share of the hostile inputs of `make attack`: each is refused in a line of ours, or does no harm."""

import pytest

from tests.attack.kinds import ATTACKS
from tests.attack.runner import attack_all

SHARE = {"databases": 8, "stream frames": 10, "http answers": 25, "names": 40, "version files": 15}


@pytest.mark.promise(19)
@pytest.mark.filterwarnings("ignore")  # of libraries that are given nonsense
@pytest.mark.parametrize("kind", ATTACKS)
def test_hostile_input_is_refused_in_a_line_and_in_bounded_time(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("DSC_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DSC_ARTIFACT_KEY", raising=False)
    attack, _ = ATTACKS[kind]
    most = SHARE.get(kind, 30)
    tally, _ = attack_all(tmp_path, {kind: (attack, most)}, seed=1)
    assert tally.faults == {}
    assert tally.tried == most


def test_attack_tries_as_many_as_it_says():
    assert sum(most for _, most in ATTACKS.values()) == 9_500
