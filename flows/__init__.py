"""When and in what order: Prefect flows, each runnable by hand with `python -m flows.<name>`."""

import os
import sys
import warnings
from pathlib import Path

if sys.argv[:1] == ["-m"]:  # one is being started, and what it imports takes seconds
    import gc

    from flows.entry.interrupt import leave_on_interrupt

    leave_on_interrupt()
    gc.set_threshold(30_000)  # what is imported stays: to look through it again and again took a tenth of those seconds

# Of a home that can't be written; what is wrong with it, the program says.
warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")

try:
    Path.home()
except RuntimeError:  # of a user whom this machine does not know: Prefect asks for it when it is imported
    from contextlib import suppress

    from storage.schema import StoreError
    from storage.settings import Settings

    home = Settings.from_environment().home
    os.environ["HOME"] = str(home)
    if not home.exists():
        sys.stderr.write(f"this user has no home directory: {home} stands in for it\n")
    with suppress(StoreError):  # which the program says itself
        Settings.from_environment().prepare_home()
