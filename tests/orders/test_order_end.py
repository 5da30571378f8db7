"""How a session with orders ends: flat or held, as asked; and nothing that it wrote shows a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.live.halts import Halts
from tasks.live.orders import Orders
from tasks.live.session_config import SessionConfig
from tests.live.conftest import MARKET, rigs
from tests.live.order_rig import ACCOUNT, DESK, KEY, NO_LIMITS


@pytest.mark.promise(17)
@pytest.mark.parametrize("at_end", ["flat", "hold"])
def test_session_ends_as_asked(tmp_path: Path, at_end: str, caplog: pytest.LogCaptureFixture) -> None:
    bars = 8
    with rigs(tmp_path) as start:
        rig = start(accounts=[ACCOUNT])
        config = SessionConfig(at_end=at_end)  # type: ignore[arg-type]
        with (
            Orders(rig.link, KEY, "tests", Halts.of(tmp_path), limits=NO_LIMITS, desk_timing=DESK) as orders,
            rig.session(bars, mode="sandbox", orders=orders, config=config) as session,
        ):
            session.run(lambda: rig.play(bars, bar_every_s=0.25))
        position = rig.sandbox.account(KEY.key).positions[MARKET.symbol]
        (market,) = session.markets.values()
        assert (position.size == 0) == (at_end == "flat")
        assert float(position.size) == market.own.ledger.quantity
        shown = [repr(orders), repr(vars(orders)), repr(session), caplog.text, *rig.notes]
    written = [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    for text in (*shown, *written):
        assert KEY.key not in text
        assert KEY.secret not in text
