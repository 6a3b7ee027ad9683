"""The output folder, on this machine or in a bucket.

    manifest.json                            what the folder is for: model, inputs, limits
    listing.parquet                          every photo, in the order in which they are cut into shards
    labels/shard-000012-<digest>.parquet     the answers of one shard; there whole or not at all
    errors/shard-000012-<digest>.parquet     the photos of that shard that have none, where there are any
    summary.json                             written when all is done

The labels of a shard are written after its errors, so a shard is finished when its labels are there. The digest is that
of the shard's inputs, the model and the limits. A shard that is done again overwrites its own files with the same rows.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.bulk.labeller import ANSWER, ERROR, PLACE
from app.bulk.listing import Listing, piece_digest
from app.bulk.places import LOCK, join, locate, names_in, read_at_most, reason, write_whole
from contract.errors import ContractError

FORMAT_VERSION = 2  # 2: the columns `familiarity` and `unfamiliar`, the reasons of those that were abstained on
MANIFEST, LISTING, SUMMARY = "manifest.json", "listing.parquet", "summary.json"
LABELS, ERRORS = "labels", "errors"
KEY = b"food_vision"  # of the counts in a labels file's own metadata

MODEL = {"model": pa.string(), "model_digest": pa.string()}
LABELS_SCHEMA = pa.schema({**PLACE, **ANSWER, **MODEL})
ERRORS_SCHEMA = pa.schema({**PLACE, **ERROR, **MODEL})


@dataclass(frozen=True)
class Parameters:
    """What must stay the same in one output folder; its sentence on a change names the field."""

    model: str
    model_digest: str
    inputs: list[str]
    shard: int
    column: str | None
    top_k: int
    abstain_below: float
    unfamiliar: str
    unfamiliar_below: float
    max_body_bytes: int
    max_pixels: int


@dataclass
class Counts:
    """Photos: the labelled by label, those that the model abstained on by reason, and the bad ones by slug."""

    labels: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    abstained: Counter[str] = field(default_factory=Counter)

    @property
    def photos(self) -> int:
        """All of them."""
        return self.answered + self.errors.total()

    @property
    def answered(self) -> int:
        """Rows of `labels`."""
        return self.labels.total() + self.abstained.total()

    def add(self, other: Counts) -> None:
        """Count the other's too."""
        self.labels.update(other.labels)
        self.errors.update(other.errors)
        self.abstained.update(other.abstained)


class Output:
    """The folder `place` for `parameters`."""

    def __init__(self, place: str, parameters: Parameters) -> None:
        self.place = place
        self._parameters = parameters
        self._salt = json.dumps(asdict(parameters), sort_keys=True)

    # -- what the folder is for -------------------------------------------------------------------------------------------

    def begun(self) -> bool:
        """Whether a run has begun here. Raises `ContractError` if it was for something else, or the folder is no output."""
        names = names_in(self.place)
        if MANIFEST not in names:
            strange = names - {LISTING, LOCK, f".{LISTING}", f".{MANIFEST}"}
            if strange:
                raise ContractError(
                    f"{self.place} holds {sorted(strange)[0]} and no {MANIFEST}: it is no output of this command. "
                    "Choose another --out."
                )
            return False
        stored = self._manifest()
        for name, now in asdict(self._parameters).items():
            then = stored["parameters"].get(name)
            if then != now:
                raise ContractError(
                    f"{self.place} was begun with {name} {_short(then)}, and now it is {_short(now)}. Choose another "
                    "--out, or give what was given then."
                )
        return True

    def begin(self, listing: Listing) -> None:
        """Store the listing, then the manifest."""
        manifest = {
            "format_version": FORMAT_VERSION,
            "parameters": asdict(self._parameters),
            "listing": {"photos": listing.photos, "digest": listing.digest},
        }
        write_whole(join(self.place, LISTING), listing.to_bytes())
        write_whole(join(self.place, MANIFEST), (json.dumps(manifest, indent=2) + "\n").encode())

    def listing(self) -> Listing:
        """The listing that the run began with. Raises `ContractError` when it is damaged."""
        found = Listing.from_bytes(self._read(LISTING))
        if found.digest != self._manifest()["listing"]["digest"]:
            raise ContractError(f"The listing in {self.place} is not the one of its {MANIFEST}. Choose another --out.")
        return found

    def check_listing(self, now: Listing) -> None:
        """Raise `ContractError` unless the inputs are what they were when the run began."""
        if now.digest == self._manifest()["listing"]["digest"]:
            return
        columns = ("path", "bytes", "group", "photos")
        before, after = (
            set(zip(*(one.pieces[name].to_pylist() for name in columns), strict=True)) for one in (self.listing(), now)
        )
        new, gone = ({piece[0] for piece in pieces} for pieces in (after - before, before - after))
        raise ContractError(
            f"The inputs have changed since {self.place} was begun: {len(new - gone)} new, {len(gone - new)} gone, "
            f"{len(new & gone)} changed. Choose another --out, or finish what was listed then with --as-listed."
        )

    def _manifest(self) -> dict[str, Any]:
        text = self._read(MANIFEST)
        try:
            found = json.loads(text)
            whole = {"photos", "digest"} <= set(found["listing"])
            version, found = found["format_version"], {**found, "parameters": dict(found["parameters"])}
        except (ValueError, KeyError, TypeError):
            version, whole, found = None, False, {}
        if version == FORMAT_VERSION and whole:
            return found
        if version in range(1, FORMAT_VERSION):
            raise ContractError(
                f"{self.place} was begun by an earlier version of this command, whose tables have other columns. Choose "
                "another --out, or finish it with that version."
            )
        raise ContractError(f"{self.place}/{MANIFEST} is damaged or of another version. Choose another --out.")

    def _read(self, name: str) -> bytes:
        try:
            return read_at_most(join(self.place, name), None)
        except OSError as error:
            raise ContractError(f"{self.place}/{name} cannot be read: {reason(error)}.") from None

    # -- shards -----------------------------------------------------------------------------------------------------------

    def name(self, pieces: Any) -> str:
        """The file name of a shard."""
        digest = hashlib.sha256((self._salt + piece_digest(pieces)).encode()).hexdigest()
        return f"shard-{pieces['shard'][0].as_py():06d}-{digest[:12]}.parquet"

    def finished(self, shards: Iterable[Any]) -> dict[int, Counts]:
        """Counts of each finished shard. A file that is not whole, or has not every photo of its shard, is not finished."""
        there = names_in(join(self.place, LABELS))
        named = {self.name(pieces): pieces for pieces in shards}
        wanted = [(name, pieces) for name, pieces in named.items() if name in there]
        with ThreadPoolExecutor(16) as pool:
            found = pool.map(lambda one: self._counts(*one), wanted)
            return {
                pieces["shard"][0].as_py(): counts
                for (_, pieces), counts in zip(wanted, found, strict=True)
                if counts is not None
            }

    def _counts(self, name: str, pieces: Any) -> Counts | None:
        system, path = locate(join(self.place, LABELS, name))
        try:
            footer = pq.read_metadata(path, filesystem=system)
            stored = json.loads((footer.metadata or {})[KEY])
            counts = Counts(*(Counter(stored[name]) for name in ("labels", "errors", "abstained")))
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
            return None
        whole = counts.photos == pc.sum(pieces["photos"]).as_py() and footer.num_rows == counts.answered
        return counts if whole else None

    def write(self, pieces: Any, rows: Any) -> Counts:
        """Write a shard's rows (`labeller.ANSWERED`, one for each photo, in order) and count them."""
        bad = pc.is_valid(rows["error_type"])
        labels, errors = rows.filter(pc.invert(bad)), rows.filter(bad)
        counts = Counts(
            *(
                Counter(one.drop_null().to_pylist())
                for one in (labels["label"], errors["error_type"], labels["abstained"])
            )
        )
        name = self.name(pieces)
        if len(errors):
            write_whole(join(self.place, ERRORS, name), self._parquet(errors, ERRORS_SCHEMA, {}))
        said = {KEY: json.dumps(vars(counts))}
        write_whole(join(self.place, LABELS, name), self._parquet(labels, LABELS_SCHEMA, said))
        return counts

    def _parquet(self, rows: Any, schema: Any, metadata: dict[bytes, str]) -> bytes:
        for name, value in (("model", self._parameters.model), ("model_digest", self._parameters.model_digest)):
            rows = rows.append_column(name, pa.array([value] * len(rows), pa.string()))
        table = rows.select(schema.names).cast(schema).replace_schema_metadata(metadata)
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        return sink.getvalue()

    def summarised(self) -> bool:
        """Whether there is a `summary.json`."""
        return SUMMARY in names_in(self.place)

    def summarise(self, totals: dict[str, Any]) -> None:
        """Write `summary.json`."""
        write_whole(join(self.place, SUMMARY), (json.dumps(totals, indent=2) + "\n").encode())


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}…"
