"""What the proof of orders came to: a table, and with DSC_ORDERS_JSON set a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.orders.cells import ACCOUNT, KEY, OPEN, Desk, account_of
from tests.orders.many_markets import MANY, Many

_FOUND = pytest.StashKey[dict[str, Any]]()
NAMES = (
    "fault_cells", "sequences", "gate_cells", "gate_trading", "fills", "violations", "duplicate_orders", "unexplained",
    "keys_found", "latency_ms", "halt_flat_s",
)  # fmt: skip
"""What the file has at the end of `make orders`."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FOUND] = {}


@pytest.fixture(scope="session")
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What is to be told at the end, by name."""
    return request.config.stash[_FOUND]


@pytest.fixture
def open_desk(tmp_path: Path) -> Iterator[OPEN]:
    """Return an opener of desks, on one journal, that lasts for a test."""
    with ExitStack() as stack:
        yield lambda faults=(), **options: Desk(tmp_path / "orders.sqlite", stack, faults, **options)


@pytest.fixture
def open_many(tmp_path: Path) -> Iterator[MANY]:
    """Return an opener of so many markets of one account that lasts for a test."""
    with ExitStack() as stack:
        yield lambda number: Many(tmp_path, stack, number)


@pytest.fixture
def open_account(open_desk: OPEN) -> Iterator[ACCOUNT]:
    """Return what gives a session's account in a desk's sandbox, and its gateway; they last for a test."""
    with ExitStack() as stack:
        yield lambda here, key=KEY: account_of(here, stack, key)


@pytest.hookimpl(optionalhook=True)  # it is of pytest-xdist
def pytest_testnodedown(node: Any) -> None:
    """Add what one of several processes found: counts are summed, and of times the longest counts."""
    found = node.config.stash[_FOUND]
    for name, value in getattr(node, "workeroutput", {}).get("orders", {}).items():
        known = found.get(name)
        if isinstance(value, int):
            found[name] = value + (known or 0)
        else:
            found[name] = value if known is None else max(known, value)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a whole proof that has proven less than it should."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["orders"] = session.config.stash[_FOUND]
        return
    is_whole = os.environ.get("DSC_ORDERS_JSON") and not session.config.option.keyword
    if is_whole and (lacking := [name for name in NAMES if name not in session.config.stash[_FOUND]]):
        session.config.stash[_FOUND]["lacking"] = lacking
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash[_FOUND]
    if not (path := os.environ.get("DSC_ORDERS_JSON")) or not found:
        return
    Path(path).write_text(json.dumps(found, indent=1) + "\n")
    terminalreporter.section("orders")
    for name, value in found.items():
        terminalreporter.write_line(f"{name:20s} {value}")
    terminalreporter.write_line(path)
