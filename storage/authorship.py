"""Signatures with a key that all writers of a shared place hold, so that versions of other writers are refused.

A seal (a plain hash) shows damage and careless edits, but anyone who can write to the place can compute a new one. With
DSC_ARTIFACT_KEY, versions, champion entries, logs and results also carry an HMAC-SHA256 (RFC 2104), and files with a
missing or wrong signature are refused. Deletions are not detected: anyone who can delete files can remove the newest
entry of a champion's history.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Place:
    """A storage location and the key of its writers.

    Attributes:
        url: A path or any fsspec URL.
        key: Key that signs everything stored there; None: signatures are neither made nor checked.
    """

    url: str = field(repr=False)
    key: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, place: Where) -> Place:
        """Return a path or URL as a place without a key; a `Place` as it is."""
        return place if isinstance(place, Place) else cls(url=str(place))

    def signature(self, digest: str) -> str | None:
        """Return the HMAC of a hash, 64 hexadecimal digits; None without a key."""
        return None if self.key is None else hmac.new(self.key.encode(), digest.encode(), "sha256").hexdigest()

    def is_ours(self, found: object, digest: str) -> bool:
        """Return whether `found` is the valid signature of a hash; without a key, always True."""
        wanted = self.signature(digest)
        return wanted is None or hmac.compare_digest(str(found).encode(), wanted.encode())

    def __str__(self) -> str:
        return self.url


Where = Place | Path | str
"""A place; or a path or URL alone, which means without signatures."""
