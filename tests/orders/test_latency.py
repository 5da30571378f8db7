"""What a session itself adds between a bar's first price and its order, beside a network of 20 ms."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from tasks.execution.orders import Order, Status
from tasks.live.halts import Halts
from tasks.live.market_session import MarketSession
from tasks.live.order_gateway import OrderGateway
from tasks.sandbox.sockets import PushTiming
from tests.live.conftest import MARKET, rigs
from tests.live.order_rig import ACCOUNT, KEY, NO_LIMITS

DELAY_S, BARS = 0.02, 40


def timed(market: MarketSession) -> list[tuple[float, float, float]]:
    """Return a list that will have, of the first order of each decision, how long its stages took, milliseconds.

    Own is from when the first price or the book had come in, whichever came last, until the order was to be written
    down: the session's own share. Then the disk, and from there until the exchange had answered.
    """
    own, taken = market.own, list[tuple[float, float, float]]()
    desk, journal, met = own.desk, own.desk._journal, list[int]()
    submit, write, place = desk.submit_intent, journal.order, desk.trading.place

    def submits(wanted: Any) -> None:
        met[:] = [max(market._first.received_ns, own._begun.received_ns)] if market._first else []
        submit(wanted)

    def writes(account: str, start_ms: int, order: Order, *more: Any) -> None:
        began_ns = time.monotonic_ns()
        write(account, start_ms, order, *more)
        if order.status is Status.SUBMITTING and len(met) == 1:
            met[1:] = [began_ns, time.monotonic_ns()]

    def places(*sent: Any) -> Any:
        answer = place(*sent)
        if len(met) == 3:
            at = np.array([*met, time.monotonic_ns()])
            taken.append(tuple(np.diff(at) / 1e6))
            met.append(0)  # a later order of the decision waits for this one's end
        return answer

    desk.submit_intent, journal.order, desk.trading.place = submits, writes, places
    return taken


def test_orders_go_out_and_their_stages_are_told(tmp_path: Path, found: dict[str, Any]) -> None:
    with rigs(tmp_path) as start:
        rig = start(accounts=[ACCOUNT], stream=PushTiming(delay_s=DELAY_S), latency_ms=int(1e3 * DELAY_S))
        with (
            OrderGateway(rig.link, KEY, "tests", Halts.of(tmp_path), limits=NO_LIMITS) as orders,
            rig.session(BARS, mode="sandbox", orders=orders) as session,
        ):
            (market,) = session.markets.values()
            taken = timed(market)
            session.run(lambda: rig.play(BARS, bar_every_s=0.25))
        stages = np.array(taken)
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
