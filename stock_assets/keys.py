"""Keys of the service: a name, what it may do, and the SHA-256 of its secret."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from stock_assets.errors import SetupError

_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")
_ENTRY = re.compile(rf"({_NAME.pattern}):([a-z+]+):([0-9a-f]{{64}})")
_GUESSED = (  # of what a shell or a person hashes in haste
    *("", "admin", "changeme", "demo", "key", "none", "null", "password", "secret"),
    *("stock-assets", "stock_assets", "test", "token", "undefined"),
)


class Scope(StrEnum):
    """What a key may be good for."""

    READ = "read"
    UPLOAD = "upload"
    TRAIN = "train"


@dataclass(frozen=True)
class Key:
    """A key as the settings have it: whoever reads it there cannot use it."""

    name: str
    scopes: frozenset[Scope]
    sha256: str

    def __str__(self) -> str:
        """As `parse_keys` reads it."""
        return f"{self.name}:{'+'.join(sorted(self.scopes))}:{self.sha256}"


def new_key(name: str, scopes: Collection[Scope]) -> tuple[str, Key]:
    """A secret that nobody guesses, and its key.

    Raises:
        SetupError: The name is none.
    """
    if not _NAME.fullmatch(name):
        raise SetupError(
            f"A key cannot be named {name!r}. "
            "Expected 1 to 40 letters, digits, dots, dashes and underscores."
        )
    secret = secrets.token_urlsafe(32)
    return secret, Key(name, frozenset(scopes), _digest(secret))


def parse_keys(text: str) -> tuple[Key, ...]:
    """Keys written as ``name:scope+scope:sha256``, with commas or white space between them.

    Raises:
        SetupError: An entry is none; it is told by its place, as it may hold a secret.
    """
    keys = []
    for place, entry in enumerate(text.replace(",", " ").split(), 1):
        parts = _ENTRY.fullmatch(entry)
        scopes = set(parts[2].split("+")) if parts else set()
        if parts is None or not scopes <= set(Scope):
            raise SetupError(
                f"Entry {place} of STOCK_ASSETS_API_KEYS is no key. Expected name:scopes:sha256 "
                f"with scopes of {'+'.join(Scope)}, as `stock-assets key NAME` prints it."
            )
        keys.append(Key(parts[1], frozenset(map(Scope, scopes)), parts[3]))
    _demand_each_its_own(keys)
    return tuple(keys)


def _demand_each_its_own(keys: Collection[Key]) -> None:
    names = [key.name for key in keys]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SetupError(f"STOCK_ASSETS_API_KEYS names {', '.join(twice)} twice.")
    digests = [key.sha256 for key in keys]
    weak = [
        key.name
        for key in keys
        if digests.count(key.sha256) > 1 or key.sha256 in map(_digest, (*_GUESSED, key.name))
    ]
    if weak:
        raise SetupError(
            f"Of the keys {', '.join(weak)} the secret can be guessed, or is another's too. "
            "Make new ones with `stock-assets key NAME`."
        )


def key_of(secret: str, keys: Iterable[Key]) -> Key | None:
    """The key with this secret; how long it takes tells nothing of which, or how nearly."""
    digest, found = _digest(secret), None
    for key in keys:
        if hmac.compare_digest(digest, key.sha256):
            found = key
    return found


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
