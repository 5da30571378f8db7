"""Who wrote it: a key that the writers of a shared place have in common, so that nobody else's versions are served.

A seal shows damage and careless edits, and whoever may write to the place can make a new one. With DSC_ARTIFACT_KEY
versions, champion entries and results carry an HMAC-SHA256 (RFC 2104) too, and what carries none, or another one, is
refused. It does not show what was taken away: whoever may delete can take the newest entry of a champion's history.
"""

from __future__ import annotations

import hmac

from storage.schema import content_hash
from storage.settings import Settings


def signature(*parts: bytes | memoryview) -> str | None:
    """Return the HMAC of the parts, 64 hexadecimal digits; None where this process has no key."""
    key = Settings.from_environment().artifact_key
    return None if key is None else hmac.new(key.encode(), content_hash(parts).encode(), "sha256").hexdigest()


def is_ours(found: object, *parts: bytes | memoryview) -> bool:
    """Return whether `found` is the signature of the parts; without a key, nothing is asked of it."""
    wanted = signature(*parts)
    return wanted is None or hmac.compare_digest(str(found).encode(), wanted.encode())
