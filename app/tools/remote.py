"""Files of a folder on a web server or in a Cloud Storage bucket: whole, or resumed, with a sentence for each failure."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

from contract.errors import ContractError

TRIES = 5  # of one file, when the network or the server fails
PAUSE = 1.0  # seconds before the second try; twice as long before each further one
PIECE = 1 << 20
METADATA = "computeMetadata/v1/instance/service-accounts/default"
STORAGE = "https://storage.googleapis.com"  # as Google's own clients: STORAGE_EMULATOR_HOST in its place


class Remote:
    """A folder: `https://host/folder`, `http://…` or `gs://bucket/folder`, without query or fragment."""

    def __init__(self, url: str, *, timeout: float) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("gs", "http", "https") or not parts.netloc:
            raise ContractError(f"{url!r} is not a folder's URL; use gs://BUCKET/FOLDER, https://… or http://….")
        if parts.query or parts.fragment:
            raise ContractError(f"{url!r} must be the URL of a folder, with nothing after ? or #.")
        if parts.username or parts.password:
            raise ContractError("The URL must hold no user name or password.")
        self._given, self._timeout, self._bucket, self._token = url.rstrip("/"), timeout, "", ""
        self._base = self._given
        if parts.scheme == "gs":
            self._bucket = parts.netloc
            host = os.environ.get("STORAGE_EMULATOR_HOST", STORAGE).rstrip("/")
            self._base = f"{host}/{urllib.parse.quote(self._given.removeprefix('gs://'))}"

    def name_of(self, name: str) -> str:
        """The file's URL, as the user would write it."""
        return f"{self._given}/{name}"

    def get(self, name: str, to: Path, *, most: int, resume: bool = False) -> None:
        """Write the file to `to`; with `resume` go on from the bytes that are there, if the server can.

        Stops one byte after `most`, so that an endless answer does not fill the disk. Raises `ContractError`.
        """
        if not resume:
            to.unlink(missing_ok=True)
        for attempt in range(1, TRIES + 1):
            try:
                self._once(name, to, most)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 416:  # nothing after the bytes that are there
                        return
                    if error.code < 500 and error.code not in (408, 429):
                        raise self._refused(name, error.code) from None
                reason: str = f"HTTP {error.code}"
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", None) or error or type(error).__name__)
            else:
                return
            if attempt < TRIES:
                time.sleep(PAUSE * 2 ** (attempt - 1))
        raise ContractError(f"{self.name_of(name)} cannot be read: {reason}, {TRIES} times. Is the address right?")

    def _once(self, name: str, to: Path, most: int) -> None:
        have = to.stat().st_size if to.is_file() else 0
        if have > most:
            to.unlink()
            have = 0
        request = urllib.request.Request(f"{self._base}/{urllib.parse.quote(name)}")
        if have:
            request.add_header("Range", f"bytes={have}-")
        if self._bucket:
            request.add_unredirected_header("Authorization", f"Bearer {self._bearer()}")
        with urllib.request.urlopen(request, timeout=self._timeout) as answer:
            resumed = have > 0 and answer.status == 206
            with to.open("ab" if resumed else "wb") as file:
                _copy(answer, file, most + 1 - (have if resumed else 0))
                file.flush()
                os.fsync(file.fileno())

    def _bearer(self) -> str:
        """The token of the machine's service account, asked for once: it lives far longer than a download."""
        if not self._token:
            host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
            request = urllib.request.Request(f"http://{host}/{METADATA}/token", headers={"Metadata-Flavor": "Google"})
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
            try:
                with direct.open(request, timeout=self._timeout) as answer:
                    self._token = str(json.load(answer)["access_token"])
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
                raise ContractError(
                    f"{self._given} needs a token of Google Cloud, and the metadata server {host} gave none: {error}. "
                    "Is this a pod or machine on Google Cloud, with Workload Identity on?"
                ) from None
        return self._token

    def _refused(self, name: str, code: int) -> ContractError:
        where = self.name_of(name)
        if self._bucket and code in (401, 403):
            return ContractError(
                f"{where} may not be read (HTTP {code}): give the service account the role "
                f"roles/storage.objectViewer on the bucket {self._bucket}."
            )
        if code in (401, 403):
            return ContractError(f"{where} may not be read without a password (HTTP {code}).")
        if code == 404:
            kind = f"the bucket {self._bucket} or the folder" if self._bucket else "the folder"
            return ContractError(f"{where} is not there (HTTP 404): is {kind} right, and holds it a bundle?")
        return ContractError(f"{where} cannot be read: HTTP {code}.")


def _copy(answer: http.client.HTTPResponse, file: IO[bytes], most: int) -> None:
    expected, began = answer.length, file.tell()
    while most > 0 and (piece := answer.read(min(PIECE, most))):
        file.write(piece)
        most -= len(piece)
    if most > 0 and expected is not None and file.tell() - began < expected:
        raise http.client.IncompleteRead(b"", expected - (file.tell() - began))
