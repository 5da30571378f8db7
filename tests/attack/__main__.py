"""`make attack`: hostile inputs of every kind, on loopback alone, in bounded time; $DSC_HOME/attack.json."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

from storage.schema import PipelineError
from storage.settings import Settings
from tests.attack.kinds import ATTACKS
from tests.attack.runner import Tally, attack_all, peak_mb


def main() -> int:
    """Attack, print and keep what came of it, and return the exit status."""
    try:
        home = Settings.from_environment().prepare_home()
    except PipelineError as err:
        sys.exit(f"{type(err).__name__}: {err}")
    warnings.simplefilter("ignore")  # of libraries that are given nonsense
    os.environ.pop("DSC_ARTIFACT_KEY", None)
    seed = int(os.environ.get("SEED", "1"))
    with tempfile.TemporaryDirectory(dir=home) as folder:
        tally, seconds = attack_all(Path(folder), ATTACKS, seed, on_kind=_show)
    found = {
        "tried": tally.tried,
        "handled": tally.tried - sum(tally.faults.values()),
        "tracebacks": sum(tally.faults.values()),
        "peak_mb": round(peak_mb()),
        "seconds": round(seconds, 1),
        "refused": tally.refused,
        "seed": seed,
        "faults": tally.faults,
    }
    path = home / "attack.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    for name, value in found.items():
        if name != "faults":
            print(f"  {name:12} {value}")
    for fault, times in tally.faults.items():
        print(f"  {times:5} x {fault}")
    print(path)
    return 1 if tally.faults else 0


def _show(kind: str, tally: Tally, seconds: float) -> None:
    print(f"  {kind:20} {tally.tried:6,} tried, {tally.refused:6,} refused, {seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
