"""Keyed pseudonyms: identifiers come in, only keys go on."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError

KEY_VARIABLE = "PLEURA_PSEUDONYM_KEY"
MIN_KEY_BYTES = 16
#: Public data sets carry pseudonyms of their own, so their key is no secret and the same splits come out everywhere.
PUBLIC_KEY = b"pleura: public data set"
#: Shorter identifiers are replaced only where they stand alone, or every digit of every path would match.
MIN_SUBSTRING = 5
#: Characters of a key that stand for an identifier inside a uri: 64 bits.
URI_KEY_LENGTH = 16


@dataclass(frozen=True, repr=False)
class Pseudonymizer:
    """HMAC-SHA256 (RFC 2104) of identifiers, apart for each data set."""

    key: bytes
    dataset: str

    def patient(self, identifier: str) -> str:
        """The `patient_key`: 64 hexadecimal digits."""
        return self._digest("patient", identifier)

    def study(self, identifier: str) -> str:
        """The `study_key`: 64 hexadecimal digits."""
        return self._digest("study", identifier)

    def uri(self, path: str, *identifiers: str) -> str:
        """`path` with every occurrence of an identifier replaced by the start of its key."""
        for identifier in sorted(filter(None, identifiers), key=len, reverse=True):
            pattern = re.escape(identifier)
            if len(identifier) < MIN_SUBSTRING:
                pattern = rf"(?<![0-9A-Za-z]){pattern}(?![0-9A-Za-z])"
            path = re.sub(pattern, self._digest("uri", identifier)[:URI_KEY_LENGTH], path, flags=re.IGNORECASE)
        return path

    def _digest(self, kind: str, identifier: str) -> str:
        message = "\0".join((self.dataset, kind, identifier)).encode()
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()


def secret_key(key_file: str | None) -> bytes:
    """The key from a file, or from the environment.

    Raises:
        ConfigError: if there is none, or it is too short to keep a secret.
    """
    if key_file:
        if not Path(key_file).is_file():
            raise ConfigError(f"pseudonym_key_file: there is no file '{key_file}'.")
        key = Path(key_file).read_bytes().strip()
        where = f"the file '{key_file}'"
    else:
        key = os.environ.get(KEY_VARIABLE, "").strip().encode()
        where = f"the environment variable {KEY_VARIABLE}"
    if not key:
        raise ConfigError(
            "this source holds patients' identifiers, so their pseudonyms need a secret key, and none is set.\n"
            "Make one and keep it outside the lake:\n"
            "  python -c 'import secrets; print(secrets.token_hex(32))' > pseudonym.key\n"
            f"then give pseudonym_key_file=pseudonym.key, or put its content into {KEY_VARIABLE}."
        )
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(f"the pseudonym key in {where} has {len(key)} bytes; it needs at least {MIN_KEY_BYTES}.")
    return key
