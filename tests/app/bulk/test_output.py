"""The output folder knows what it is for, what is finished and what is not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs the extra bulk")

import pyarrow as pa
import pyarrow.parquet as pq

from app.bulk.job import ProgressLine
from app.bulk.labeller import ANSWERED
from app.bulk.listing import Listing, list_inputs
from app.bulk.output import ERRORS_SCHEMA, LABELS_SCHEMA, Counts, Output, Parameters
from contract.errors import ContractError
from tests.app.bulk.photos import finished, rows

PARAMETERS = Parameters(
    model="m",
    model_digest="d" * 64,
    inputs=["/photos"],
    shard=3,
    column=None,
    top_k=5,
    abstain_below=0.0,
    unfamiliar="abstain",
    unfamiliar_below=0.01,
    max_body_bytes=100,
    max_pixels=100,
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photos: three shards."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(7):
        (folder / f"{index}.png").write_bytes(b"x" * index)
    return folder


@pytest.fixture
def listing(photos: Path) -> Listing:
    return list_inputs([str(photos)], 3)


def answered(pieces: Any, bad: int = -1) -> Any:
    """Rows for a shard, with made-up answers."""
    made = []
    for row in pieces.to_pylist():
        place = {name: row[name] for name in ("shard", "index", "path", "row")}
        if row["index"] == bad:
            made.append(place | {"error_type": "bad_image", "error": "It is damaged."})
        else:
            top = [{"class_id": 1, "label": "taco", "prediction": "Taco", "confidence": 0.5}]
            made.append(place | {**top[0], "raw_output": "a photo", "top": top})
    return pa.Table.from_pylist(made, schema=ANSWERED)


def test_shards_are_written_counted_and_found_again(tmp_path: Path, listing: Listing) -> None:
    output = Output(f"{tmp_path}/out", PARAMETERS)
    assert not output.begun()
    output.begin(listing)
    assert output.begun()
    shards = list(listing.shards())
    assert output.finished(shards) == {}
    assert output.write(shards[0], answered(shards[0], bad=1)) == Counts(Counter(taco=2), Counter(bad_image=1))
    output.write(shards[2], answered(shards[2]))
    found = Output(f"{tmp_path}/out", PARAMETERS).finished(shards)
    assert {shard: counts.photos for shard, counts in found.items()} == {0: 3, 2: 1}
    assert found[0] == Counts(Counter(taco=2), Counter(bad_image=1))
    good, bad = rows(tmp_path / "out"), rows(tmp_path / "out", "errors")
    assert [Path(row["path"]).name for row in good] == ["0.png", "2.png", "6.png"]
    assert [(Path(row["path"]).name, row["error_type"], row["error"]) for row in bad] == [
        ("1.png", "bad_image", "It is damaged.")
    ]
    assert list(good[0]) == LABELS_SCHEMA.names
    assert list(bad[0]) == ERRORS_SCHEMA.names
    assert {row["model_digest"] for row in (*good, *bad)} == {"d" * 64}


def test_what_has_no_label_is_counted_by_its_reason(tmp_path: Path, listing: Listing) -> None:
    output = Output(f"{tmp_path}/out", PARAMETERS)
    shard = next(listing.shards())
    made = answered(shard).to_pylist()
    for row, reason in zip(made, ("unfamiliar", "low_confidence", "unfamiliar"), strict=True):
        row |= {"label": None, "class_id": None, "prediction": None, "abstained": reason}
    counts = Counts(abstained=Counter(unfamiliar=2, low_confidence=1))
    assert output.write(shard, pa.Table.from_pylist(made, schema=ANSWERED)) == counts
    assert output.finished([shard]) == {0: counts}
    line = ProgressLine(3, 1, {0: counts})
    assert line.summary()["abstained"] == {"unfamiliar": 2, "low_confidence": 1}
    assert "photos   3, labelled 0, abstained on 3 (unfamiliar 2, low_confidence 1)\n" in line.text("out")


@pytest.mark.parametrize("harm", ["cut", "empty", "other", "fewer", "foreign"])
def test_a_file_that_is_not_whole_is_not_finished(tmp_path: Path, listing: Listing, harm: str) -> None:
    output = Output(f"{tmp_path}/out", PARAMETERS)
    shard = next(listing.shards())
    output.write(shard, answered(shard))
    assert len(output.finished([shard])) == 1
    file = tmp_path / "out" / "labels" / output.name(shard)
    whole = pq.read_table(file)
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif harm == "empty":
        file.write_bytes(b"")
    elif harm == "other":
        file.write_bytes(b"not a table at all, but long enough for a footer")
    elif harm == "fewer":
        pq.write_table(whole.slice(0, 2), file)
    else:
        pq.write_table(whole.replace_schema_metadata(None), file)
    assert output.finished([shard]) == {}
    output.write(shard, answered(shard))
    assert len(output.finished([shard])) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("model_digest", "e" * 64), ("inputs", ["/photos", "/more"]), ("shard", 4), ("column", "image"), ("top_k", 3),
     ("abstain_below", 0.5), ("unfamiliar", "mark"), ("unfamiliar_below", 0.5),
     ("max_body_bytes", 99), ("max_pixels", 101)],
)  # fmt: skip
def test_two_runs_that_differ_do_not_share_a_folder(tmp_path: Path, listing: Listing, name: str, value: Any) -> None:
    output = Output(f"{tmp_path}/out", PARAMETERS)
    output.begin(listing)
    changed: Any = {name: value}
    other = Output(f"{tmp_path}/out", replace(PARAMETERS, **changed))
    shard = next(listing.shards())
    assert other.name(shard) != output.name(shard)
    with pytest.raises(ContractError, match=rf"was begun with {name} .*, and now it is .*\. Choose another --out"):
        other.begun()


def test_inputs_that_changed_are_refused_with_what_changed(tmp_path: Path, photos: Path, listing: Listing) -> None:
    output = Output(f"{tmp_path}/out", PARAMETERS)
    output.begin(listing)
    output.check_listing(list_inputs([str(photos)], 3))
    (photos / "8.png").write_bytes(b"")
    (photos / "9.png").write_bytes(b"")
    (photos / "3.png").unlink()
    (photos / "4.png").write_bytes(b"another")
    with pytest.raises(ContractError, match=r"begun: 2 new, 1 gone, 1 changed\..*--as-listed\."):
        output.check_listing(list_inputs([str(photos)], 3))
    assert output.listing().digest == listing.digest


def test_a_folder_that_is_no_output_is_left_alone(tmp_path: Path, listing: Listing) -> None:
    output = Output(f"{tmp_path}/out", PARAMETERS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("do not touch")
    with pytest.raises(ContractError, match=r"holds thesis.txt and no manifest.json: it is no output of this command"):
        output.begun()
    (tmp_path / "out" / "thesis.txt").unlink()
    output.begin(listing)
    (tmp_path / "out" / "manifest.json").unlink()
    assert not output.begun(), "a run that was stopped between its listing and its manifest begins anew"


def test_a_damaged_manifest_or_listing_is_one_sentence(tmp_path: Path, listing: Listing) -> None:
    output = Output(f"{tmp_path}/out", PARAMETERS)
    output.begin(listing)
    manifest = tmp_path / "out" / "manifest.json"
    good = manifest.read_text()
    for text in ("", "[]", "{}", json.dumps({**json.loads(good), "format_version": 99})):
        manifest.write_text(text)
        with pytest.raises(ContractError, match="is damaged or of another version"):
            output.begun()
    manifest.write_text(json.dumps({**json.loads(good), "format_version": 1}))
    with pytest.raises(ContractError, match="was begun by an earlier version of this command"):
        output.begun()
    manifest.write_text(good)
    (tmp_path / "out" / "listing.parquet").write_bytes(Listing(listing.pieces.slice(1)).to_bytes())
    with pytest.raises(ContractError, match="is not the one of its manifest"):
        output.listing()
    assert finished(tmp_path / "out") == {}
