"""A child with a child of its own, which both do nothing; "stubborn" in IDLE: and do not listen either."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from flows.entry import child

if os.environ["IDLE"] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1:]:
    below = subprocess.Popen(child.child_command("tests.entry.idle_child"))  # noqa: S603
    ready = Path(sys.argv[1]) / "ready"
    ready.with_suffix(".draft").write_text(str(below.pid))
    ready.with_suffix(".draft").replace(ready)
time.sleep(600)
