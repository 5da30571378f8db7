"""How a session with orders ends: flat or held, as asked; and nothing that it wrote shows a key."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.live.halts import Halts
from tasks.live.order_gateway import OrderGateway
from tasks.live.session_config import SessionConfig
from tasks.sandbox.faults import Fault, Match
from tests.live.conftest import MARKET, rigs
from tests.live.order_rig import ACCOUNT, DESK, KEY, NO_LIMITS
from tests.sandbox import actions


@pytest.mark.promise(17)
@pytest.mark.parametrize("at_end", ["flat", "hold"])
def test_session_ends_as_asked_and_shows_no_key(
    tmp_path: Path, at_end: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], found: Any
) -> None:
    bars = 8
    with rigs(tmp_path) as start:
        rig = start(accounts=[ACCOUNT])
        config = SessionConfig(at_end=at_end)  # type: ignore[arg-type]
        echoes = f"error sign! origin_string[1795925842237{KEY.key}5000{{}}]"
        alerts: list[str] = []
        with OrderGateway(
            rig.link, KEY, "tests", Halts.of(tmp_path), limits=NO_LIMITS, desk_timing=DESK, on_alert=alerts.append
        ) as orders:
            with rig.session(bars, mode="sandbox", orders=orders, config=config) as session:
                session.run(lambda: rig.play(bars, bar_every_s=0.25))
            position = rig.sandbox.account(KEY.key).positions[MARKET.symbol]
            (market,) = session.markets.values()
            assert (position.size == 0) == (at_end == "flat")
            assert float(position.size) == market.own.ledger.quantity
            Halts.of(tmp_path).latch("sandbox", MARKET, "the news")
            rig.sandbox.follow([Fault(Match(path="/v5/position/list"), actions.ret_code(10004, echoes))])
            refused = failure(lambda: orders.trading.position(MARKET))
        orders.trading.ban.begin(600.0)
        caught = [refused, failure(lambda: orders.trading.position(MARKET)), failure(lambda: pickle.dumps(KEY))]
        with rig.reader() as reader:
            journal = [repr(one) for _, one in reader.orders(MARKET.slug)] + [
                repr(reader.notes()),
                repr(reader.facts()),
            ]
        own = market.own
        things = (orders, orders.trading, session, own, own.desk, own.limit_book, orders.trading._questions)
        shown = [repr(one) + repr(vars(one)) for one in things]
    printed = capfd.readouterr()
    written = [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert {"halts", "risk"} <= {path.name for path in tmp_path.iterdir()}
    told = [caplog.text, printed.out, printed.err, repr(KEY), *rig.notes, *alerts]
    texts = [*shown, *journal, *caught, *written, *told]
    assert "error sign!" in refused
    keys = sum(text.count(secret) for text in texts for secret in (KEY.key, KEY.secret))
    found["keys_found"] = found.get("keys_found", 0) + keys
    assert keys == 0


def failure(do: Callable[[], object]) -> str:
    """Return what an error shows, the way to it included."""
    try:
        do()
    except Exception:
        return traceback.format_exc()
    raise AssertionError("it did not fail")
