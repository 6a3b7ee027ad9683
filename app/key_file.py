"""The file of API keys: one key on each line, read again when it changes. Knows nothing of the web."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from pathlib import Path
from typing import Literal, TypeAlias

from contract.errors import ContractError

log = logging.getLogger("food_vision")
SETTLED = 2.0  # seconds: the coarsest clock of a file system
Stamp: TypeAlias = tuple[int, ...] | None  # of a file


def read_keys(path: Path) -> list[bytes]:
    """SHA-256 digests of the keys in a file; blank lines and lines that begin with `#` are left
    out.

    Raises `ContractError` for a file that cannot be read, holds no key, or a key that no header can
    carry. No message holds a key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8 text"
        raise ContractError(f"The API keys at {path} cannot be read: {reason}.") from None
    digests = []
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if not all("!" <= character <= "~" for character in key):
            raise ContractError(
                f"Line {number} of {path} is no API key: only visible ASCII without blanks can be sent."
            )
        digests.append(hashlib.sha256(key.encode()).digest())
    if not digests:
        raise ContractError(f"The file {path} holds no API key; write one key on each line, or unset api_keys_file.")
    return digests


class KeyFile:
    """The keys of a file, read again when it changes. A change that cannot be read leaves the keys
    as they were.

    A file that has just changed is read for each request: a second change may follow within one
    tick of the file system's clock, and shows in nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._settled(self._stamp())
        self._digests = read_keys(path)
        self._complaint = ""

    def _stamp(self) -> Stamp:
        try:
            found = self._path.stat()
        except OSError:
            return None
        # the first is nobody's to set: tools may keep size and time of a file that they write over
        return found.st_ctime_ns, found.st_mtime_ns, found.st_ino, found.st_dev, found.st_size

    def _settled(self, stamp: Stamp) -> Stamp | Literal[""]:
        """What is seen at this time; nothing that a stamp could be, if it may change unseen."""
        return "" if stamp is not None and stamp[0] / 1e9 > time.time() - SETTLED else stamp

    def _read(self) -> None:
        try:
            digests = read_keys(self._path)
        except ContractError as error:
            if str(error) != self._complaint:
                log.error("%s The keys from before stay in force.", error)
            self._complaint = str(error)
            return
        if self._complaint or digests != self._digests:
            log.info("API keys were read again: %d", len(digests))
        self._digests, self._complaint = digests, ""

    def accepts(self, key: str) -> bool:
        """Whether it is one of the keys. Takes as long for a wrong key as for a right one, wherever
        they differ.
        """
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = self._settled(stamp)
            self._read()
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them, not up to the first
        return any(matches)
