"""A process that serves a decision every second: the champion in force, the newest candles, one compiled call.

    python -m tests.soak.soak_decider <log>

It only reads: versions through the artifact store, candles through their Parquet file. Every second it appends one line
of JSON to its log, with the error where one surfaced, and goes on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.artifacts import ArtifactStore
from storage.recent import read_recent
from storage.schema import Market, VersionRef
from storage.settings import Settings
from tasks.champion.expiry import ExpiryRule
from tasks.champion.serving import load_served, served_champion
from tasks.strategy.live_tick import LiveTick
from tests.soak.soak_exchange import MARKET, SOURCE


@dataclass
class Decider:
    """One market's decisions.

    Attributes:
        settings: Where the store is.
        market: The market.
    """

    settings: Settings
    market: Market = MARKET
    _ref: VersionRef | None = None
    _live: LiveTick | None = None
    _newest_ms: int = -1
    _target: int = 0
    _store: ArtifactStore = field(init=False)

    def __post_init__(self) -> None:
        self._store = ArtifactStore(self.settings.models)

    def decide(self) -> dict[str, Any]:
        """Return the position to hold now, and from which version and bar."""
        served = served_champion(self._store, SOURCE, self.market.slug, int(time.time() * 1000), ExpiryRule())
        if served.ref != self._ref:
            self._live, self._newest_ms, self._target = None, -1, 0
            if served.ref is not None:
                self._live = load_served(self._store, served.ref).tick()
            self._ref = served.ref
        if self._live is not None:
            candles = read_recent(self.settings.recent, SOURCE, self.market)
            for candle in candles[candles.start_ms > self._newest_ms].matrix():
                self._target = self._live.step(candle, self._target).target
                self._newest_ms = int(candle[0])
        version = self._ref.version if self._ref else None
        return {"version": version, "bar_ms": self._newest_ms, "target": self._target}


def main(log: Path) -> None:
    """Decide every second until killed."""
    decider, due = Decider(Settings.from_environment()), time.time()
    with log.open("a", buffering=1) as lines:
        while os.getppid() != 1:  # an orphan has nobody to decide for
            began = time.time()
            line: dict[str, Any] = {"due": due}
            try:
                line |= decider.decide()
            except Exception as err:
                line["error"] = f"{type(err).__name__}: {err}"
            lines.write(json.dumps(line | {"at": time.time(), "took_s": time.time() - began}) + "\n")
            due += 1.0
            time.sleep(max(0.0, due - time.time()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
