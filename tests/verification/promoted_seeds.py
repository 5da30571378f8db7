"""Run the main job on the default market with several training seeds, and without a signal; keep what each came to.

    python -m tests.verification.promoted_seeds [seed ...]      writes promoted_seeds.json beside this file

Each run is a process with a home of its own, so that each is judged against `flat`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("promoted_seeds.json")
SEEDS = (7, 17, 27, 37, 47)
NUMBERS = ("total_return", "max_drawdown", "num_trades", "log_loss", "direction")


def judged(*arguments: str) -> dict[str, Any]:
    """Run the main job, and return what its version says of the verdict."""
    with tempfile.TemporaryDirectory(prefix="dsc-seeds-") as home:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("PREFECT_", "DSC_"))}
        command = [sys.executable, "-m", "flows.pipeline", *arguments]
        done = subprocess.run(  # noqa: S603
            command,
            cwd=ROOT,
            env=kept | {"DSC_HOME": home, "DO_NOT_TRACK": "1"},
            text=True,
            capture_output=True,
            check=True,
        )
        (manifest,) = (json.loads(path.read_text()) for path in Path(home).glob("models/*/*/*/manifest.json"))
        judgement, summary = manifest["judgement"], manifest["summary"]
        verdict = next(line for line in done.stdout.splitlines() if line.startswith(("PROMOTED", "NOT PROMOTED")))
        return {
            "arguments": " ".join(arguments),
            "verdict": verdict,
            "source": manifest["source"],
            "lines_in_a_pipe": len(done.stdout.splitlines()) + len(done.stderr.splitlines()),
            "checks": {check["name"]: [check["passed"], check["found"]] for check in judgement["checks"]},
            "edge_bp": summary["edge_bp"],
            **{line["name"]: {name: line[name] for name in NUMBERS} for line in summary["lines"]},
        }


if __name__ == "__main__":
    rows = [judged("--fit.seed", str(seed)) for seed in map(int, sys.argv[1:] or SEEDS)]
    rows.append(judged("--synthetic.kind", "null"))
    TABLE.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(row["arguments"], row["verdict"], row["this model"])
