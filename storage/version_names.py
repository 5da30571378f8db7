"""Names of versions and their folders; no valid name can lead out of its folder."""

import re
from contextlib import suppress
from datetime import UTC, datetime

from storage.schema import ArtifactError, Source, VersionRef, parse_source, source_slug

_VERSION = re.compile(r"([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{8}")
_STAMP = "%Y%m%dT%H%M%SZ"
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # no separator, no leading dot: cannot leave its folder


def market_folder(source: Source, name: str) -> str:
    """Return the folder of a market's versions, below the store's URL.

    Raises:
        ArtifactError: The name is not a valid folder name.
    """
    if not PLAIN_NAME.fullmatch(name):
        raise ArtifactError(f"name must be letters, digits, dots, dashes and underscores, was {name[:60]!r}")
    return f"{source_slug(parse_source(source))}/{name}"


def version_folder(ref: VersionRef) -> str:
    """Return the folder of a version's files, below the store's URL.

    Raises:
        ArtifactError: The version's or the market's name is not valid.
    """
    if not is_version(ref.version):
        raise ArtifactError(f"version must look like 20260104T100000Z-7f3c9a2e, was {ref.version[:60]!r}")
    return f"{market_folder(ref.source, ref.name)}/{ref.version}"


def is_version(text: str) -> bool:
    """Return whether `text` is a version's name, <UTC>-<hash8>."""
    found = _VERSION.fullmatch(text)
    return found is not None and is_stamp(found[1])


def is_stamp(text: str) -> bool:
    """Return whether `text` is a time as `time_stamp` writes it."""
    with suppress(ValueError):
        return datetime.fromisoformat(text).strftime(_STAMP) == text
    return False


def time_stamp(time: datetime) -> str:
    """Return a time as 20260104T100000Z: text that sorts by time.

    Raises:
        ArtifactError: It has no time zone.
    """
    if time.tzinfo is None:
        raise ArtifactError(f"time must know its zone, was {time.isoformat()}")
    return time.astimezone(UTC).strftime(_STAMP)
