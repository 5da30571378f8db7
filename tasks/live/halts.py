"""Halts that outlive the process: a small file a market and environment, which only a person removes.

A session reads it before it opens anything, whoever wrote it: a session whose risk limit broke, or `flows.halt`, which
works while the session hangs or is dead.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from storage.foreign import parse_json, read_file
from storage.schema import Market, StoreError, one_line
from storage.whole_file import replace_file

_LONGEST = 10_000  # bytes of a halt


@dataclass(frozen=True)
class Halt:
    """A latch.

    Attributes:
        why: One line.
        at: When, UTC, RFC 3339.
    """

    why: str
    at: str


@dataclass(frozen=True)
class Halts:
    """The halts of a home: of a market, whatever its interval, in an environment (sandbox, demo, testnet, live)."""

    folder: Path

    @classmethod
    def of(cls, home: Path) -> Self:
        """Return those of a home."""
        return cls(home / "halts")

    def read(self, environment: str, market: Market) -> Halt | None:
        """Return the halt of a market; one that can't be read is a halt too.

        Returns:
            None where it is not halted.
        """
        path = self._path(environment, market)
        try:
            said = parse_json(read_file(path, _LONGEST))
            # An empty reason would count as no halt wherever one is asked for by its reason.
            return Halt(one_line(said["why"]) or "nobody has said why", one_line(said["at"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as err:
            return Halt(f"{path} can't be read ({type(err).__name__})", "")

    def latch(self, environment: str, market: Market, why: str) -> Halt:
        """Halt a market; the first reason stays.

        Raises:
            StoreError: It can't be written.
        """
        path = self._path(environment, market)
        halt = Halt(why, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        known = self.read(environment, market)
        if known is not None and known.at:  # without a time it could not be read, and may not be there
            return known
        try:
            replace_file(path, json.dumps(vars(halt)).encode())
        except OSError as err:
            raise StoreError(f"the halt {path} can't be written ({err})") from err
        return halt

    def rearm(self, environment: str, market: Market) -> Halt | None:
        """Remove a halt, because a person says so, and return what it was.

        Returns:
            None where it was not halted.
        """
        halt = self.read(environment, market)
        self._path(environment, market).unlink(missing_ok=True)
        return halt

    def _path(self, environment: str, market: Market) -> Path:
        return self.folder / f"{environment}-{market.category}-{market.symbol}.json"
