"""Bring a bundle from a web server or a Cloud Storage bucket, and let nothing through that is not
what was named.

    python -m app.tools.fetch gs://my-models/food101 --sha256 9f3c…e1 --to /models/bundle
    python -m app.tools.fetch https://models.example/food101 --sha256 9f3c…e1 --to bundles/food101

The digest is that of the bundle's manifest.json (`sha256sum bundles/food101/manifest.json`); the
manifest names the size and digest of every other file, so one number holds them all. Files come one
by one into `.NAME.partial` beside the folder, which takes its name when all are there and right.
Run again after an interruption, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

from contract.bundle import MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest, read_bundle
from contract.cli import run
from contract.errors import BundleError, ContractError
from contract.files import sha256_file

ATTEMPTS = 2  # of one file whose digest is wrong: a resumed part may have been another version's
TRIES = 5  # of one file, when the network or the server fails
PAUSE = 1.0  # seconds before the second try; twice as long before each further one
PIECE = 1 << 20
METADATA = "computeMetadata/v1/instance/service-accounts/default"
STORAGE = "https://storage.googleapis.com"  # as Google's own clients: STORAGE_EMULATOR_HOST in its place


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m app.tools.fetch",
        description="Download a bundle and check every file of it.",
        epilog="gs:// uses the token of the machine's service account (GCE_METADATA_HOST); proxies come from the "
        "environment (HTTPS_PROXY, NO_PROXY).",
    )
    parser.add_argument("url", help="folder of the bundle: gs://BUCKET/FOLDER, https://… or http://…")
    parser.add_argument("--sha256", required=True, help="sha256 of its manifest.json, 64 hex digits")
    parser.add_argument("--to", type=Path, required=True, help="folder to make; it must not hold anything else")
    parser.add_argument(
        "--timeout", type=float, default=30, help="longest wait for the server in seconds (default: 30)"
    )
    args = parser.parse_args(argv)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", args.sha256):
        parser.error("--sha256 must be 64 hex digits: sha256sum manifest.json in the bundle's folder prints them")
    if not args.timeout > 0:
        parser.error("--timeout must be above 0")
    return run("fetch", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    manifest = fetch(args.url, args.sha256.lower(), args.to, timeout=args.timeout)
    print(f"{args.to}: {manifest.name} {manifest.version}, every file checked")
    return 0


def fetch(url: str, sha256: str, to: Path, *, timeout: float = 30) -> Manifest:
    """The bundle at `url` in the folder `to`; `sha256` is the digest of its manifest.json. Returns
    the manifest.

    A folder that holds this bundle already is checked and left as it is. Raises `ContractError`
    when the URL cannot be read, a digest is wrong, there is no room, or `to` holds anything else.
    """
    if to.is_dir() and any(to.iterdir()):
        return _already_there(to, sha256)
    part = to.with_name(f".{to.name}.partial")
    part.mkdir(parents=True, exist_ok=True)
    remote = Remote(url, timeout=timeout)
    _fetch_manifest(remote, part / MANIFEST_FILE, sha256)
    manifest = _parse(part / MANIFEST_FILE)
    _clear_others(part, {MANIFEST_FILE, *manifest.files})
    _check_room(manifest, part)
    for name, entry in sorted(manifest.files.items()):
        _fetch_file(remote, name, part, size=entry.bytes, sha256=entry.sha256)
    bundle = read_bundle(part, weights=False)
    if to.exists():
        to.rmdir()  # empty, see above
    part.rename(to)
    return bundle.manifest


def _already_there(to: Path, sha256: str) -> Manifest:
    file = to / MANIFEST_FILE
    if not file.is_file() or sha256_file(file) != sha256:
        raise ContractError(
            f"{to} holds something else than the bundle {sha256[:12]}…; name another --to or delete it."
        )
    return read_bundle(to, weights=False).manifest


def _fetch_manifest(remote: Remote, file: Path, sha256: str) -> None:
    if file.is_file() and sha256_file(file) == sha256:
        return
    file.unlink(missing_ok=True)
    remote.get(MANIFEST_FILE, file, most=MAX_MANIFEST_BYTES)
    found = sha256_file(file)
    if found != sha256:
        file.unlink()
        raise ContractError(
            f"{remote.name_of(MANIFEST_FILE)} has the sha256 {found}, not {sha256}: it is another bundle than was asked "
            "for. Use the digest of this one if it is meant, or find out who changed it."
        )


def _parse(file: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(file.read_bytes())
    except ValueError as error:
        raise ContractError(f"{file.name} of this bundle cannot be read by this release: {error}.") from None
    for name in manifest.files:
        if name != Path(name).name or name.startswith(".") or name == MANIFEST_FILE:
            raise BundleError(f"The manifest lists {name!r}, which is not a plain file name.")
    return manifest


def _clear_others(part: Path, names: set[str]) -> None:
    """Remove what an earlier fetch of another bundle left."""
    for path in part.iterdir():
        if path.name not in names and path.name.removesuffix(".part") not in names:
            path.unlink()


def _check_room(manifest: Manifest, part: Path) -> None:
    have = sum(path.stat().st_size for path in part.iterdir())
    needed = sum(entry.bytes for entry in manifest.files.values()) - have
    free = shutil.disk_usage(part).free
    if needed > free:
        raise ContractError(
            f"The bundle needs {needed / 1e6:.0f} MB more at {part.parent}, where {free / 1e6:.0f} MB are free."
        )


def _fetch_file(remote: Remote, name: str, part: Path, *, size: int, sha256: str) -> None:
    file, unfinished = part / name, part / f"{name}.part"
    if file.is_file() and file.stat().st_size == size and sha256_file(file) == sha256:
        return
    for attempt in range(1, ATTEMPTS + 1):
        began = time.monotonic()
        resumed = unfinished.is_file() and unfinished.stat().st_size > 0
        print(f"{name}: {size / 1e6:.1f} MB{', going on' if resumed else ''}", file=sys.stderr, flush=True)
        remote.get(name, unfinished, most=size, resume=True)
        found, have = sha256_file(unfinished), unfinished.stat().st_size
        if found == sha256:
            unfinished.rename(file)
            print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
            return
        unfinished.unlink()
        if not resumed or attempt == ATTEMPTS:
            raise ContractError(
                f"{remote.name_of(name)} has {have} bytes and the sha256 {found}, its manifest says {size} bytes and "
                f"{sha256}. Upload the bundle again."
            )


class Remote:
    """Files of a folder: `https://host/folder`, `http://…` or `gs://bucket/folder`, without query
    or fragment.

    They come whole or are gone on with, and each failure is one sentence.
    """

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
        """Write the file to `to`; with `resume` go on from the bytes that are there, if the server
        can.

        Stops one byte after `most`, so that an endless answer does not fill the disk. Raises
        `ContractError`.
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
        """The token of the machine's service account, asked for once: it lives far longer than a
        download.
        """
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


if __name__ == "__main__":
    sys.exit(main())
