"""When and in what order: Prefect flows, each runnable by hand with `python -m flows.<name>`."""

import sys

if sys.argv[:1] == ["-m"]:  # one is being started, and what it imports takes seconds
    from flows.entry.interrupt import leave_on_interrupt

    leave_on_interrupt()
