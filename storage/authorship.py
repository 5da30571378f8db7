"""Who wrote it: a key that the writers of a shared place have in common, so that nobody else's versions are served.

A seal shows damage and careless edits, and whoever may write to the place can make a new one. With DSC_ARTIFACT_KEY
versions, champion entries, logs and results carry an HMAC-SHA256 (RFC 2104) too, and what carries none, or another one,
is refused. It does not show what was taken away: whoever may delete can take the newest entry of a champion's history.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where things lie, and whose they must be.

    Attributes:
        url: A path or any fsspec URL.
        key: What everything there is signed with; None: nobody asks who wrote it.
    """

    url: str = field(repr=False)
    key: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, place: Where) -> Place:
        """Return the place that a path or URL names, without a key."""
        return place if isinstance(place, Place) else cls(url=str(place))

    def signature(self, digest: str) -> str | None:
        """Return the HMAC of a hash, 64 hexadecimal digits; None without a key."""
        return None if self.key is None else hmac.new(self.key.encode(), digest.encode(), "sha256").hexdigest()

    def is_ours(self, found: object, digest: str) -> bool:
        """Return whether `found` is the signature of a hash; without a key, nothing is asked of it."""
        wanted = self.signature(digest)
        return wanted is None or hmac.compare_digest(str(found).encode(), wanted.encode())

    def __str__(self) -> str:
        return self.url


Where = Place | Path | str
"""A place; or a path or URL alone, where nothing is signed and nobody asks who wrote it."""
