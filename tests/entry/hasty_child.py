"""As `flows.entry.child`, for a child and for its own, with half a second for whoever does not listen."""

import sys

from flows.entry import child


def hasty_command(*module: str) -> list[str]:
    """Return the command that runs a module so."""
    return [sys.executable, "-m", "tests.entry.hasty_child", *module]


child._GRACE_S = 0.5
child.child_command = hasty_command

if __name__ == "__main__":
    child._run(sys.argv[1], sys.argv[2:])
