"""Candle stores that are damaged, or in which other things have the names of our tables."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from itertools import count
from pathlib import Path

import duckdb
import numpy as np

from storage.candles import CandleStore
from tests.attack.classes import Attempt, each
from tests.attack.lab import NOW_MS, SOURCE, Lab
from tests.attack.mutations import Random, damaged

_FORGERIES = (
    "drop table candles; create view candles as select * from read_csv('/etc/passwd')",
    "drop table candles; create view candles as select 1 as source from range(1000000000000)",
    "drop table meta; create view meta as select 'schema_version' as name, '1' as value",
    "drop table meta; create view meta as select i::varchar as name, '1' as value from range(1000000000000) t(i)",
    "drop table funding; create table funding (source integer)",
    "alter table candles alter start_time type varchar",
    "alter table candles drop turnover",
    "update meta set value = 'x' || chr(27) || '[2J'",
    "delete from meta",
    "drop table runs",
    "create macro epoch_ms(x) as 'x'",
    "insert into runs values ('a', 'ingest', 'bybit', '../..', '1970-01-01', null, 'x', '')",
    "insert into candles values ('bybit', 'x', chr(27), 'y', '2025-01-01', 1, 1, 1, 1, 1, 1)",
    "insert into candles values ('x', 'linear', 'BTCUSDT', '5', '9999-12-31', 'inf', 'nan', 1, 1, 1, 1)",
)  # fmt: skip


def databases(lab: Lab, rng: Random) -> Generator[Attempt]:
    """Hand over one store after the other."""
    made = lab.folder / "whole.duckdb"
    store = CandleStore(made)
    stamps = np.array([1_735_689_600_000])
    store.upsert_funding(SOURCE, lab.market, stamps, np.array([0.0001]))
    store.finish_run(store.start_run(SOURCE, lab.market, NOW_MS), "completed", NOW_MS)
    whole = made.read_bytes()
    for place in count():
        path = lab.folder / f"{place}.duckdb"
        path.write_bytes(whole)
        if place % 2 == 0:
            with closing(duckdb.connect(path)) as con:
                con.execute(_FORGERIES[place // 2 % len(_FORGERIES)])
        else:
            path.write_bytes(damaged(whole, rng))

        def attempt(path: Path = path) -> None:
            found = CandleStore(path)
            try:
                each(
                    found.coverage,
                    found.latest_runs,
                    lambda: found.read(SOURCE, lab.market),
                    lambda: found.read_funding(SOURCE, lab.market),
                    lambda: found.upsert_funding(SOURCE, lab.market, stamps, np.array([0.0002])),
                )
            finally:
                path.unlink()

        yield attempt
