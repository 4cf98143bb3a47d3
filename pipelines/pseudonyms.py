"""Keyed pseudonyms: identifiers come in, only keys go on."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipelines.errors import ConfigError

KEY_VARIABLE = "PLEURA_PSEUDONYM_KEY"
MIN_KEY_BYTES = 16
#: Public data sets carry pseudonyms of their own, so their key is no secret and the same splits come out everywhere.
PUBLIC_KEY = b"pleura: public data set"
#: Shorter identifiers count only where they stand alone, or every path would hold one.
MIN_SUBSTRING = 4
#: Characters of a pseudonym in a uri, and of a stamp: 128 bits.
URI_KEY_LENGTH = 32
#: The endings that a uri's pseudonym keeps; of IM1.SMITH or 1.2.840.113619 the ending would tell too much.
SUFFIXES_KEPT = frozenset({".dcm", ".jpeg", ".jpg", ".npy", ".png", ".tif", ".tiff"})
#: What identifies though no row says so: a date in eight digits, year first or last, and a DICOM UID.
_DATE_OR_UID = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([-_. ]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[1-9]|[12]\d|3[01])([-_. ]?)(?:0[1-9]|[12]\d|3[01])\2(?:19|20)\d\d)(?!\d)"
    r"|(?<![\d.])\d+(?:\.\d+){4,}"
)


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

    def label(self, attribute: str, value: str) -> str:
        """What stands for the value of a DICOM attribute by which a label row and its image are joined."""
        return self._digest("label", f"{attribute}\0{value}")

    def uri(self, path: str, *identifiers: str) -> str:
        """`path` as it is, or its pseudonym if it holds one of the identifiers, a date or a DICOM UID.

        An identifier is found whatever its case, separators, accents and leading zeros. A path that is no UTF-8 can't
        be compared, and is a pseudonym.
        """
        told = not _is_text(path) or _DATE_OR_UID.search(path) is not None
        told = told or any(_holds(path, identifier) for identifier in identifiers if identifier)
        return self.keyed_uri(path) if told else path

    def keyed_uri(self, path: str) -> str:
        """A pseudonym of `path` with the same ending, if that is an image's."""
        suffix = PurePosixPath(path).suffix.lower()
        return self._digest("uri", path)[:URI_KEY_LENGTH] + (suffix if suffix in SUFFIXES_KEPT else "")

    def stamp(self, path: str, version: str) -> str:
        """What an input is known by: another one whenever the file is at another place, or was written anew."""
        return self._digest("stamp", f"{path}\0{version}")[:URI_KEY_LENGTH]

    @property
    def key_check(self) -> str:
        """Shows whether a key is the same, and not what it is."""
        return self._digest("check", "")

    def _digest(self, kind: str, identifier: str) -> str:
        message = "\0".join((self.dataset, kind, identifier)).encode("utf-8", "surrogateescape")
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()


def _is_text(path: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in path)


def _holds(path: str, identifier: str) -> bool:
    path, identifier = _unaccented(path), _unaccented(identifier)
    if identifier.isdigit():
        # 12 must not be found in 3124, and 0012 is 12.
        return re.search(rf"(?<!\d)0*{identifier.lstrip('0')}(?!\d)", path) is not None
    plain = _alphanumeric(identifier)
    if len(plain) < MIN_SUBSTRING:
        return re.search(rf"(?<![^\W_]){re.escape(identifier)}(?![^\W_])", path, re.IGNORECASE) is not None
    return plain in _alphanumeric(path)


def _unaccented(text: str) -> str:
    """Letters without their marks: file systems and DICOM files write ü as one character or as two."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _alphanumeric(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


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
    if not key and key_file:
        raise ConfigError(f"pseudonym_key_file: '{key_file}' is empty.")
    if not key:
        raise ConfigError(
            "this source holds patients' identifiers, so their pseudonyms need a secret key, and none is set.\n"
            "Make one and keep it outside the lake:\n"
            "  (umask 077; python -c 'import secrets; print(secrets.token_hex(32))' > pseudonym.key)\n"
            f"then give pseudonym_key_file=pseudonym.key, or put its content into {KEY_VARIABLE}."
        )
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(f"the pseudonym key in {where} has {len(key)} bytes; it needs at least {MIN_KEY_BYTES}.")
    return key
