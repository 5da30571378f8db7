"""No key is in anything that orders write, say or raise."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import pytest

from storage.schema import AuthError, TemporaryError
from tasks.sandbox.faults import CREATE_PATH, Action, Fault, Match
from tests.orders.cells import (
    KEY,
    MARKET,
    OPEN,
)
from tests.sandbox import actions


def test_nothing_that_a_desk_writes_holds_the_key(open_desk: OPEN, caplog: pytest.LogCaptureFixture) -> None:
    here = open_desk([Fault(Match(path=CREATE_PATH, method="POST"), actions.ret_code(10004, "sign"))])
    here.want("0.4")
    here.work()
    shown: Sequence[object] = (
        here.trading, here.desk, vars(here.trading), vars(here.desk), here.orders, here.desk.trouble, KEY, caplog.text,
    )  # fmt: skip
    here.trading.ban.begin(1e12)
    with pytest.raises(TemporaryError) as caught:
        here.trading.position(MARKET)
    texts = [repr(one) for one in (*shown, caught.value)]
    here.stop()
    files = [path.read_bytes().decode("latin-1") for path in here.journal.path.parent.iterdir()]
    for text in (*texts, *files):
        assert KEY.key not in text
        assert KEY.secret not in text


def test_refusal_that_echoes_the_key_does_not_show_it_nor_does_its_traceback(open_desk: OPEN) -> None:
    said = f"error sign! origin_string[1795925842237{KEY.key}5000{{}}]"
    refusal = Action("no", actions.ret_code(10004, said).spoil, unseen=True)
    # Each time: what a busy machine has waited for in vain it asks for again.
    here = open_desk([Fault(Match(path=CREATE_PATH, method="POST", times=None), refusal)])
    here.want("0.4")
    here.work()
    assert here.desk.trouble.startswith("the exchange refuses this key (10004: error sign!); check it")
    assert KEY.key not in here.orders[0].why
    here.sandbox.follow([Fault(Match(path="/v5/position/list", times=None), refusal)])
    with pytest.raises(AuthError) as caught:
        here.trading.position(MARKET)
    assert KEY.key not in "".join(traceback.format_exception(caught.value))  # as Prefect logs what fails a run
