"""API keys of trading accounts: one pair for each environment, read only where orders are sent, and never shown.

DSC_BYBIT_DEMO_KEY      DSC_BYBIT_DEMO_SECRET
DSC_BYBIT_TESTNET_KEY   DSC_BYBIT_TESTNET_SECRET
DSC_BYBIT_LIVE_KEY      DSC_BYBIT_LIVE_SECRET
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn, Self

from storage.schema import ConfigError

Environment = Literal["sandbox", "demo", "testnet", "live"]


@dataclass(frozen=True)
class ApiKey:
    """A key and its secret; the repr shows neither, and it can't be pickled."""

    environment: Environment
    key: str = field(repr=False)
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        for name, text in (("key", self.key), ("secret", self.secret)):
            if not (text and text.isascii() and text.isalnum()):
                raise ConfigError(f"the {name} of {self.environment} must be letters and digits; copy it once more")

    @property
    def fingerprint(self) -> str:
        """Twelve characters of a hash that identify the key without revealing it."""
        return hashlib.sha256(f"{self.environment}\n{self.key}".encode()).hexdigest()[:12]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is never written anywhere")

    @classmethod
    def of(cls, environment: Environment, environ: Mapping[str, str] | None = None) -> Self:
        """Return the key of an environment.

        Raises:
            ConfigError: A variable is not set, or holds what can't be a key.
        """
        env = os.environ if environ is None else environ
        names = [f"DSC_BYBIT_{environment.upper()}_{part}" for part in ("KEY", "SECRET")]
        if missing := [name for name in names if not env.get(name)]:
            raise ConfigError(f"orders on {environment} need a key of their own: {' and '.join(missing)} not set")
        return cls(environment, *(env[name] for name in names))
