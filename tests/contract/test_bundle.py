"""The bundle folder: whole or not there, and verified when it is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from contract import bundle as contract_bundle
from contract.bundle import DESCRIPTIONS, DecoderTokens, ImageTower, Manifest, finish_bundle, new_bundle, read_bundle
from contract.bundle_files import Folder
from contract.caption import CaptionFormat
from contract.errors import BundleError, ContractError
from contract.familiarity import Familiarity
from contract.labels import LabelSet
from contract.notices import LICENCE_FILE, NOTICE_FILE


def fill(folder: Path, *, classifier: bool = True) -> Manifest:
    for name in (
        "tokenizer.json",
        "encoder.onnx",
        "decoder.onnx",
        "decoder_step.onnx",
        *(["scorer.onnx"] if classifier else []),
    ):
        (folder / name).write_bytes(name.encode() * 50)
    if classifier:
        LabelSet.from_names(["pho", "ramen"]).save(folder / "labels.json")
    return finish_bundle(
        folder, name="test", source={}, image_size=64, image_tokens=65, width=8, precision="fp32", opset=18,
        text_layers=2, text_heads=2, text_width=8,
        caption=CaptionFormat() if classifier else None, parity={}, metrics={}, versions={},
        tokens=DecoderTokens(bos=1, sep=2, pad=0, vocabulary=9, max_length=8, static_length=4),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with new_bundle(tmp_path / "good") as temporary:
        fill(temporary)
    return tmp_path / "good"


def test_what_was_written_is_read(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.labels is not None
    assert bundle.labels.names == ["pho", "ramen"]
    assert set(bundle.manifest.files) == {p.name for p in folder.iterdir()} - {"manifest.json"}
    assert bundle.manifest.version == bundle.manifest.digest[:12]


def test_a_bundle_without_labels_can_be_read(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "caption") as temporary:
        fill(temporary, classifier=False)
    assert read_bundle(tmp_path / "caption").labels is None


def test_an_exception_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"), new_bundle(tmp_path / "out") as temporary:
        fill(temporary)
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_bundle_is_not_renamed(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not finished"), new_bundle(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_replaces_bundles_only(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="--force"), new_bundle(folder):
        pass
    with new_bundle(folder, replace=True) as temporary:
        fill(temporary, classifier=False)
    assert read_bundle(folder).labels is None
    other = tmp_path / "holiday"
    other.mkdir()
    (other / "photo.jpg").touch()
    with pytest.raises(ContractError, match="will not be replaced"), new_bundle(other, replace=True):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good", "holiday"]


def test_one_flipped_byte_of_any_file_is_found(folder: Path) -> None:
    for name in read_bundle(folder).manifest.files:
        original = (folder / name).read_bytes()
        damaged = bytearray(original)
        damaged[len(damaged) // 2] ^= 1
        (folder / name).write_bytes(damaged)
        with pytest.raises(BundleError, match=f"{name} is damaged"):
            read_bundle(folder)
        (folder / name).write_bytes(original)
    read_bundle(folder)


def test_missing_and_shortened_files_are_named(folder: Path) -> None:
    whole = (folder / "scorer.onnx").read_bytes()
    (folder / "scorer.onnx").write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=r"scorer.onnx has \d+ bytes"):
        read_bundle(folder)
    (folder / "scorer.onnx").unlink()
    with pytest.raises(BundleError, match="scorer.onnx is missing"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 99}, "format version 99; this release reads versions 2, 3, 4"),
        ({"format_version": 1}, "format version 1"),
        ({"format_version": None}, "format version None"),
        ({"extra": 1}, "damaged at extra"),
        ({"image_size": -1}, "damaged at image_size"),
        ({"files": {}}, "does not list tokenizer.json"),
        ({"temperature": 0}, "damaged at temperature"),
    ],
)
def test_a_changed_manifest_is_refused(folder: Path, change: dict[str, object], says: str) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BundleError, match=says):
        read_bundle(folder)


def test_file_names_stay_inside_the_bundle(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": "0" * 64}
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="not a plain file name"):
        read_bundle(folder)


def test_a_manifest_that_is_no_file(folder: Path) -> None:
    path = folder / "manifest.json"
    path.unlink()
    os.mkfifo(path)  # to open one to read waits for a writer
    with pytest.raises(BundleError, match="has no manifest"):
        read_bundle(folder)
    path.unlink()
    path.symlink_to("/proc/self/mem")  # opens, and cannot be read
    with pytest.raises(BundleError, match=r"manifest.json cannot be read: Input/output error\.$"):
        read_bundle(folder)


def test_paths_that_are_no_bundles(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle folder"):
        read_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"no manifest.json"):
        read_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="not readable JSON"):
        read_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("[" * contract_bundle.MAX_MANIFEST_BYTES * 2)
    with pytest.raises(BundleError, match="larger than"):
        read_bundle(tmp_path)


def test_the_version_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    with new_bundle(tmp_path / "same") as temporary:
        same = fill(temporary)
    with new_bundle(tmp_path / "other") as temporary:
        (temporary / "extra.weights").write_bytes(b"new weights")
        other = fill(temporary)
    assert read_bundle(folder).manifest.version == same.version != other.version


def test_what_was_verified_is_what_is_used(folder: Path) -> None:
    """The bytes, and not the path to open once more."""
    (folder / "text.weights").write_bytes(b"weights")
    fields = json.loads((folder / "manifest.json").read_text())
    del fields["files"]
    finish_bundle(folder, **fields)
    wanted = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    bundle, light = read_bundle(folder), read_bundle(folder, weights=False)
    for path in folder.iterdir():
        path.write_bytes(b"something else")
    assert bundle.contents == wanted
    graph = bundle.graph("encoder.onnx")
    assert (graph.path, graph.data) == (folder / "encoder.onnx", wanted["encoder.onnx"])
    assert graph.weights == {"text.weights": b"weights"}
    assert light.contents.keys() == wanted.keys() - {"text.weights"}
    bundle.release()
    assert not bundle.contents


@pytest.mark.parametrize("weights", [True, False])
def test_weights_are_verified_whether_they_are_kept_or_not(folder: Path, weights: bool) -> None:
    (folder / "text.weights").write_bytes(b"weights")
    fields = json.loads((folder / "manifest.json").read_text())
    del fields["files"]
    finish_bundle(folder, **fields)
    (folder / "text.weights").write_bytes(b"weightz")
    with pytest.raises(BundleError, match=r"text.weights is damaged"):
        read_bundle(folder, weights=weights)


def test_a_folder_that_is_switched_meanwhile_is_read_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_bundle(tmp_path / "other") as temporary:
        fill(temporary, classifier=False)
    link, verified = tmp_path / "current", Folder.verified
    link.symlink_to(folder)

    def switch(*given: Any, **more: Any) -> bytes | None:
        (tmp_path / "fresh").symlink_to(tmp_path / "other")
        os.replace(tmp_path / "fresh", link)
        return verified(*given, **more)

    monkeypatch.setattr(Folder, "verified", switch)
    assert read_bundle(link).manifest == read_bundle(folder).manifest
    assert read_bundle(link).manifest != read_bundle(folder).manifest


OTHERS: dict[str, Any] = {
    "format_version": 2, "name": "other", "source": {"checkpoint": "x"}, "image_size": 32, "trained_image_size": 32,
    "image_tokens": 17, "width": 16, "text_layers": 3, "text_heads": 4, "text_width": 16, "precision": "fp16", "opset": 23,
    "caption": CaptionFormat(target="name"), "temperature": 1.25, "parity": {"samples": 1}, "metrics": {"accuracy": 0.5},
    "versions": {"torch": "2"}, "tower": ImageTower(name="other", licence="Apache-2.0", needs_cudnn=True),
    "tokens": DecoderTokens(bos=1, sep=3, pad=0, vocabulary=9, max_length=8, static_length=4),
    "familiarity": Familiarity(photos=11, directions=8, neighbours=10), "demonstration": True, "files": {},
}  # fmt: skip


def test_every_field_of_the_manifest_is_tried() -> None:
    assert OTHERS.keys() == Manifest.model_fields.keys()


@pytest.mark.parametrize("field", OTHERS)
def test_the_version_says_all_that_an_answer_depends_on(field: str, folder: Path) -> None:
    """A new calibration is another model; what only describes one is not."""
    manifest = read_bundle(folder).manifest
    other = manifest.model_copy(update={field: OTHERS[field]})
    assert (other.digest == manifest.digest) == (field in DESCRIPTIONS)
    assert (other.graphs_digest == manifest.graphs_digest) == (field != "files"), "engines are built from graphs alone"


BANK = {"photos": 64, "directions": 8, "neighbours": 10}


@pytest.mark.parametrize(
    ("bank", "says"),
    [
        (BANK | {"photos": 10}, r"damaged at familiarity\.photos"),
        (BANK | {"photos": 5000}, r"damaged at familiarity\.photos"),
        ({"photos": 64, "directions": 8}, r"damaged at familiarity\.neighbours"),
        (BANK | {"check": {"photos": -1}}, r"damaged at familiarity\.check\.photos"),
    ],
)
def test_a_bank_that_cannot_be_is_refused(bank: dict[str, Any], says: str, folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"familiarity": bank}))
    with pytest.raises(BundleError, match=says):
        read_bundle(folder)


def test_a_bank_without_a_scorer_is_refused(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "caption") as temporary:
        fill(temporary, classifier=False)
    path = tmp_path / "caption" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"familiarity": BANK}))
    with pytest.raises(BundleError, match=r"has a bank of training photos but no scorer\.onnx"):
        read_bundle(tmp_path / "caption")


def test_a_bundle_from_before_towers_were_recorded_is_read_and_needs_no_cudnn(folder: Path) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    version = read_bundle(folder).manifest.version
    data.pop("tower")
    path.write_text(json.dumps(data))
    found = read_bundle(folder).manifest
    assert (found.tower, found.needs_cudnn, found.version) == (None, False, version)


@pytest.mark.parametrize("name", ["a\u202eb", "a\x1b[2J", "a\nb", "", "x" * 301])
def test_a_tower_is_told_on_one_printable_line(name: str, folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tower": {"name": "known", "source": name}}))
    with pytest.raises(BundleError, match=r"damaged at tower\.source"):
        read_bundle(folder)


@pytest.mark.parametrize(
    "name", ["labels.json", "tokenizer.json", "encoder.onnx", "check.npz", "NOTICE", "LICENSE-APACHE-2.0"]
)
def test_the_version_follows_the_files(name: str, folder: Path) -> None:
    manifest = read_bundle(folder).manifest
    changed = manifest.files | {name: manifest.files["scorer.onnx"].model_copy(update={"sha256": "0" * 64})}
    other = manifest.model_copy(update={"files": changed})
    assert (other.digest == manifest.digest) == (name in ("check.npz", NOTICE_FILE, LICENCE_FILE))
    assert (other.graphs_digest == manifest.graphs_digest) == (not name.endswith(".onnx"))


@pytest.mark.parametrize("older", [2, 3, 4])
def test_a_bundle_of_an_older_format_is_read_and_has_the_version_of_the_same_one_today(
    older: int, folder: Path
) -> None:
    version, path = read_bundle(folder).manifest.version, folder / "manifest.json"
    data = json.loads(path.read_text()) | {"format_version": older}
    for field in ("familiarity", "demonstration"):
        del data[field]
    path.write_text(json.dumps(data))
    assert read_bundle(folder).manifest.format_version == older
    assert read_bundle(folder).manifest.version == version
