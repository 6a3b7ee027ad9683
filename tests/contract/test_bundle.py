"""The bundle folder: whole or not there, and verified when it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contract import bundle as contract_bundle
from contract.bundle import DecoderTokens, Manifest, finish_bundle, new_bundle, read_bundle
from contract.caption import CaptionFormat
from contract.errors import BundleError, ContractError
from contract.labels import LabelSet


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
        ({"format_version": 99}, "format version 99"),
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
