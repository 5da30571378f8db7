"""Run the main job on markets without a signal, where trading costs next to nothing: luck is all that can be promoted.

    python -m tests.verification.null_markets [seed ...]      writes null_markets.json beside this file

With real costs nobody would trade there, and a verdict of "no" would say little. Half a minute to two minutes a market.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.verification.promoted_seeds import judged

TABLE = Path(__file__).with_name("null_markets.json")
SEEDS = range(101, 121)
COSTS = ("--costs.commission", "0.00001", "--costs.slippage", "0")

if __name__ == "__main__":
    rows = []
    for seed in map(int, sys.argv[1:] or SEEDS):
        rows.append(judged("--synthetic.kind", "null", "--synthetic.seed", str(seed), *COSTS))
        TABLE.write_text(json.dumps(rows, indent=1) + "\n")
        held = sum(passed is True for passed, _ in rows[-1]["checks"].values())
        print(seed, rows[-1]["verdict"], f"{held} of {len(rows[-1]['checks'])}", rows[-1]["this model"], flush=True)
