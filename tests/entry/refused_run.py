"""A run with a flow inside and a step that fails, as a worker starts it: by one of our errors, or by a mistake."""

import sys

from prefect import flow, task

from storage.schema import ConfigError

MISTAKE = "mistake" in sys.argv


@task
def step() -> None:
    raise ZeroDivisionError("a mistake") if MISTAKE else ConfigError("days must be 5 % of it; give more")


@flow
def inner() -> None:
    step()


@flow
def outer() -> None:
    inner()


outer()
