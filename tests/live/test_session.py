"""A session over real sockets, and the same session computed again from its journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.live.conftest import CANDLES, FIRST, MARKET, Rig

OPEN = Callable[..., Rig]


@pytest.mark.promise(16)
def test_every_decision_and_fill_of_a_session_equals_the_backtest(open_rig: OPEN) -> None:
    rig = open_rig()
    session = rig.run(300)
    (market,) = session.markets.values()
    again = rig.replayed(reference=CANDLES, funding=[])

    assert (market.counts.stepped, market.counts.missing, market.counts.repeated) == (300, 0, 0)
    assert again.differences == []
    assert (again.bars, again.equal_decisions, again.missing) == (300, 300, 0)
    assert again.fills == again.equal_fills == again.backtest_fills
    assert again.fills >= 20
    assert again.feature_diff <= 1e-9
    assert again.probability_diff <= 1e-5
    with rig.reader() as reader:
        candles, origins = reader.candles(MARKET.slug)
    assert origins[-300:] == ["stream"] * 300
    assert set(origins[:-300]) == {"warm-up"}
    np.testing.assert_array_equal(candles.matrix()[-300:], CANDLES.matrix()[FIRST : FIRST + 300])


def test_decisions_come_with_the_reason_and_can_be_printed(open_rig: OPEN) -> None:
    rig, told = open_rig(), []

    def tell(market: Any, decision: Any) -> None:
        told.append((decision.start_ms, decision.target, decision.reason))

    rig.run(60, on_decision=tell, mode="signal")
    with rig.reader() as reader:
        decisions, opens = reader.decisions(MARKET.slug), reader.opens(MARKET.slug)
    assert told == [(one.start_ms, one.target, one.reason) for one in decisions]
    assert {reason.split(":")[0] for _, _, reason in told} <= {
        "stay flat", "stay long", "stay short", "close", "go long", "go short"
    }  # fmt: skip
    assert all(bar.opened.fill is None and bar.opened.ledger.cash == 10_000.0 for bar in opens)
    assert {bar.opened.ledger.side for bar in opens} > {0}
