"""Tries hostile inputs and counts what comes of them; nothing may take longer than it may, or end in a traceback."""

from __future__ import annotations

import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random

from storage.schema import PipelineError
from tests.attack.classes import Attack, Attempt
from tests.attack.lab import Lab

_LONGEST_S = 30  # of one input, on a machine that has other things to do


@dataclass
class Tally:
    """What came of the inputs.

    Attributes:
        tried: How many there were.
        refused: How many ended in an error of ours; the others were harmless.
        faults: Where others ended, and how often each.
    """

    tried: int = 0
    refused: int = 0
    faults: dict[str, int] = field(default_factory=dict)


def attack_all(
    folder: Path,
    kinds: Mapping[str, tuple[Attack, int]],
    seed: int,
    on_kind: Callable[[str, Tally, float], object] = lambda kind, tally, seconds: None,
) -> tuple[Tally, float]:
    """Try so many inputs of each kind, each kind on a home of its own; return what came of all, and the seconds.

    Args:
        folder: An empty one.
        kinds: Name -> the attack, and how many inputs of it.
        seed: Makes the same inputs again.
        on_kind: Is told what came of a kind, and the seconds.
    """
    whole, began = Tally(), time.monotonic()
    for kind, (attack, most) in kinds.items():
        place = folder / kind.replace(" ", "-")
        place.mkdir()
        tally, since = Tally(), time.monotonic()
        with closing(attack(Lab(place), Random(f"{seed} {kind}"))) as attempts:
            for attempt in islice(attempts, most):
                _try(kind, attempt, tally)
        on_kind(kind, tally, time.monotonic() - since)
        whole.tried += tally.tried
        whole.refused += tally.refused
        whole.faults |= tally.faults
    return whole, time.monotonic() - began


def _try(kind: str, attempt: Attempt, tally: Tally) -> None:
    tally.tried += 1
    try:
        with _in_bounded_time():
            attempt()
    except PipelineError:
        tally.refused += 1
    except Exception as err:
        frames = traceback.extract_tb(err.__traceback__)
        last = next((one for one in frames[::-1] if "/site-packages/" not in one.filename), frames[-1])
        fault = f"{kind}: {type(err).__name__} at {Path(last.filename).name}:{last.lineno}: {str(err)[:160]!r}"
        tally.faults[fault] = tally.faults.get(fault, 0) + 1


def peak_mb() -> float:
    """Return the most memory that this process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


@contextmanager
def _in_bounded_time() -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise TimeoutError(f"no answer after {_LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(_LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
