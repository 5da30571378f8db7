"""What damage and malice make of good bytes and documents; the same generator gives the same ones again."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

Random = random.Random

NASTY: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 7, 2**31, 2**53 + 1, 2**63, 10**30, -(10**30), 10**400, 1e308, -1e-308, 0.5,
    float("nan"), float("inf"), "", " ", "x" * 20_000, "0", "1e5", "nan", "٣٣", "\x1b[2J", "a\nb", "a\x00b",
    "\u202eb", "\ud800", "../../etc/passwd", "/etc/passwd", "20261345T250000Z", "99999999T999999Z-00000000",
    "9999-12-31T23:59:59Z", "file:///etc/passwd", "${HOME}", "{{7*7}}", "<script>",
    [], {}, [None], [[]], {"": {}}, [[1, 2], [3]], {"a": {"b": []}},
)  # fmt: skip
"""Values that no writer of ours puts where they stand."""


def nested(depth: int, inner: Any = 0) -> Any:
    """Return lists in lists."""
    for _ in range(depth):
        inner = [inner]
    return inner


def mutated(document: Any, rng: Random) -> Any:
    """Return a document of which one to three parts, anywhere, are replaced, gone, doubled or new."""
    changed = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        changed = _mutate(changed, rng)
    return changed


def _mutate(document: Any, rng: Random) -> Any:
    place, parent, key = document, None, None
    while isinstance(place, dict | list) and place and (parent is None or rng.random() < 0.75):
        parent, key = place, rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place = parent[key]
    if parent is None:
        return rng.choice(NASTY)
    how = rng.choice(("replace", "replace", "replace", "drop", "add", "double", "number", "deep"))
    if how == "drop":
        del parent[key]
    elif how == "add" and isinstance(parent, dict):
        parent[rng.choice(("x", "", "__class__", "seal", "\x1b[0m"))] = rng.choice(NASTY)
    elif how == "add":
        parent.append(rng.choice(NASTY))
    elif how == "double" and isinstance(parent, list):
        parent.extend(copy.deepcopy(parent))
    elif how == "number" and isinstance(place, int | float) and abs(place) < 1e300:
        parent[key] = place * rng.choice((-1, 10**6, 10**18, 10**40, 0, 1e-9))
    elif how == "deep":
        parent[key] = nested(rng.choice((5, 100, 400)), place)
    else:
        parent[key] = rng.choice(NASTY)
    return document


def damaged(data: bytes, rng: Random) -> bytes:
    """Return bytes of which some are others, gone, too many or in another place."""
    changed = bytearray(data)

    def somewhere() -> int:
        return rng.randrange(len(changed) + 1)

    def flip() -> None:
        for _ in range(rng.randint(1, 8)):
            if changed:
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)

    def cut() -> None:
        del changed[somewhere() :]

    def put() -> None:
        at = somewhere()
        changed[at:at] = rng.choice((b"\x00" * 64, b"\xff" * 8, rng.randbytes(rng.randint(1, 200)), data[:100]))

    def overwrite() -> None:
        at = somewhere()
        changed[at : at + 8] = rng.choice((b"\xff" * 8, bytes(8), b"\xff\xff\xff\x7f", rng.randbytes(8)))

    def swap() -> None:
        one, other = sorted((somewhere(), somewhere()))
        changed[:] = changed[:one] + changed[other:] + changed[one:other]

    ways: tuple[Callable[[], None], ...] = (flip, flip, cut, put, overwrite, overwrite, swap)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(ways)()
    return bytes(changed)
