"""The home's secret: the credentials with which processes of one DSC_HOME log in to the servers that it starts.

It is stored in a file that only the owner can read. Anyone who can read it has all of the owner's rights.
"""

import os
import re
import secrets
import stat
from pathlib import Path

from storage.locks import exclusive
from storage.schema import ConfigError, StoreError
from storage.whole_file import replace_file

USER = "dsc"
"""The user name for browsers and clients that ask for one."""

_FORM = re.compile(rf"{USER}:[A-Za-z0-9_-]{{43}}")  # 32 random bytes
_WAIT_S = 30.0


def secret_path(home: Path) -> Path:
    """Return the path of a home's secret."""
    return home / "secret"


def home_secret(home: Path) -> str:
    """Return the secret of a home, an existing folder: `user:password`; the first call creates it.

    Raises:
        ConfigError: Others can read the file, or its content is not a secret.
        StoreError: It can't be read or written.
    """
    path = secret_path(home)
    try:
        with exclusive(home / "locks" / "secret", f"the secret of {home}", _WAIT_S):
            if not path.exists():
                replace_file(path, f"{USER}:{secrets.token_urlsafe(32)}".encode(), mode=0o600)
        return _read(path)
    except OSError as err:
        raise StoreError(f"the home's secret must be readable, {path} is not ({err.strerror}); set DSC_HOME") from err


def _read(path: Path) -> str:
    # Follow no link, and do not wait for the writer of a pipe.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ConfigError(
                f"{path} must be a file of yours that nobody else can read, was {stat.filemode(found.st_mode)} of user "
                f"{found.st_uid}; delete it, and the next start makes a new one"
            )
        text = file.read(len(USER) + 64).strip()
    if not _FORM.fullmatch(text):
        raise ConfigError(f"{path} must hold a secret as it was made, it does not; delete it, a start makes a new one")
    return text
