"""What a session itself adds between a bar's first price and its order, beside a network of 20 ms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tasks.live.halts import Halts
from tasks.live.order_gateway import OrderGateway
from tasks.sandbox.sockets import PushTiming
from tests.live.conftest import MARKET, rigs
from tests.live.order_rig import ACCOUNT, KEY, NO_LIMITS

DELAY_S, BARS = 0.02, 40


def test_orders_go_out_and_their_stages_are_told(tmp_path: Path, found: dict[str, Any]) -> None:
    with rigs(tmp_path) as start:
        rig = start(accounts=[ACCOUNT], stream=PushTiming(delay_s=DELAY_S), latency_ms=int(1e3 * DELAY_S))
        with (
            OrderGateway(rig.link, KEY, "tests", Halts.of(tmp_path), limits=NO_LIMITS) as orders,
            rig.session(BARS, mode="sandbox", orders=orders) as session,
        ):
            session.run(lambda: rig.play(BARS, bar_every_s=0.25))
        (market,) = session.markets.values()
        stages = np.array(market.own.desk.sent)
        account = rig.sandbox.account(KEY.key)
        with rig.reader() as reader:
            booked = {one.fill.exec_id for one in reader.executions(MARKET.slug)}
            found["fills"] = len(reader.fills(MARKET.slug))
        again = rig.replayed(funding=[])
        found["unexplained"] = again.unexplained
    assert booked == {one.exec_id for one in account.executions}
    assert (again.bars, again.unexplained) == (BARS, 0)
    assert len(stages) >= 5
    p50, p99 = np.percentile(stages, [50, 99], axis=0)
    found["latency_ms"] = {
        name: {"p50": round(float(p50[at]), 3), "p99": round(float(p99[at]), 3)}
        for at, name in enumerate(("own", "fsync", "answer"))
    }
    found["own_share"] = round(float(p50[0] / (p50[0] + 1e3 * DELAY_S)), 4)
