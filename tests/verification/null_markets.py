"""Run the main job on markets without a signal at next to no costs; nothing may be promoted.

    python -m tests.verification.null_markets [seed ...]      writes null_markets.json beside this file

At the usual costs a model of such a market holds no position, and "no trade" hides what luck would have done. Here it
trades on the least lead, so that what keeps it out is what is asked of skill. Each run is a process with a home of its
own, as in `promoted_seeds`. Ends with status 1 where one was promoted.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.strategy.promotion_rule import PromotionRule
from tests.verification.promoted_seeds import judged

TABLE = Path(__file__).with_name("null_markets.json")
SEEDS = tuple(range(20))
COMMISSION = 1e-6
"""Of a fill, share of its notional: a hundredth of a basis point, so that costs are not left out either."""


def of_seed(seed: int) -> dict[str, Any]:
    """Return what the main job came to on the market of a seed."""
    market = ("--synthetic.kind", "null", "--synthetic.seed", str(seed))
    return judged(*market, "--fees", "own", "--costs.commission", f"{COMMISSION:f}", "--costs.slippage", "0")


def line(seed: int, row: dict[str, Any]) -> str:
    """Return a market as a line of the table: its verdict, its trades, and every condition that failed."""
    ours = row["this model"]
    failed = "; ".join(f"{name}: {found}" for name, (passed, found) in row["checks"].items() if passed is False)
    return (
        f"{seed:4}  {row['verdict'].partition(' - ')[0]:12}  {ours['num_trades']:6,} trades  "
        f"{ours['total_return']:+8.2%}  {failed}"
    )


def tally(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what all markets came to, in lines: how many were promoted, and how often each condition kept one out."""
    promoted, bound = sum(is_promoted(row) for row in rows), PromotionRule().significance
    failed = Counter(name for row in rows for name, (passed, _) in row["checks"].items() if passed is False)
    return [
        f"{promoted} of {len(rows)} promoted, 0 expected: all conditions must hold, of which one at p < {bound:g} "
        f"would by itself let {bound * len(rows):g} pass",
        *(f"{count:4} kept out by {name}" for name, count in failed.most_common()),
    ]


def is_promoted(row: dict[str, Any]) -> bool:
    """Return whether a run ended in a promotion."""
    return str(row["verdict"]).startswith("PROMOTED")


if __name__ == "__main__":
    seeds, rows = list(map(int, sys.argv[1:])) or SEEDS, []
    for seed in seeds:
        rows.append(of_seed(seed))
        TABLE.write_text(json.dumps(rows, indent=1) + "\n")  # a run of hours may be stopped
        print(line(seed, rows[-1]), flush=True)
    print("\n".join(tally(rows)))
    sys.exit(any(map(is_promoted, rows)))
