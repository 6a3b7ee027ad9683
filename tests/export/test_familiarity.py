"""Export with a bank of training photos: what the bundle holds, what is printed, and when there is none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.bundle import SCORER_FILE, read_bundle
from contract.familiarity import NEIGHBOURS
from export.__main__ import main
from export.inspect.__main__ import inspect_bundle, report
from modeling.checkpoint import load_checkpoint
from modeling.familiarity import Bank, pooled, save_bank
from tests.conftest import drawn_png
from tests.export.conftest import export_by_command, trace_only
from tests.familiar import PICTURES


def bank_of(checkpoint: Path) -> Bank:
    bank = load_checkpoint(checkpoint).bank
    assert bank is not None
    return bank


def with_bank(checkpoint: Path, bank: Bank, folder: Path) -> Path:
    """A copy of a checkpoint with this bank."""
    shutil.copytree(checkpoint, folder)
    save_bank(bank, folder)
    return folder


def test_the_bundle_tells_of_its_bank(familiar_bundle: Path, bundle: Path, familiar_checkpoint: Path) -> None:
    found, plain, loaded = read_bundle(familiar_bundle), read_bundle(bundle), load_checkpoint(familiar_checkpoint)
    assert plain.manifest.familiarity is None
    assert found.manifest.familiarity is not None
    assert (found.manifest.familiarity.photos, found.manifest.familiarity.neighbours) == (PICTURES, NEIGHBOURS)
    check = found.manifest.familiarity.check
    assert check is not None
    assert check.photos == 0
    assert check.largest_difference < 1e-5
    assert found.check is not None
    assert found.check.similarity is not None
    with torch.no_grad():
        wanted = bank_of(familiar_checkpoint).similarity(pooled(loaded.embed(torch.from_numpy(found.check.pixels))))
    assert np.abs(found.check.similarity - wanted.numpy()).max() < 1e-5
    others = plain.manifest.files.keys() - {SCORER_FILE, "text.weights", "check.npz"}
    assert {name: found.manifest.files[name] for name in others} == {
        name: plain.manifest.files[name] for name in others
    }
    lines = report(inspect_bundle(familiar_bundle)).splitlines()
    assert f"familiarity: a bank of {PICTURES} training photos, 0.0 MB, {NEIGHBOURS} neighbours" in lines
    assert "  output       similarity float32 [batch]" in lines
    assert "  output       familiarity float32 [batch]" in lines
    assert lines.count("  foldable     none") == 4
    inspection = inspect_bundle(familiar_bundle)
    assert inspection.data()["familiarity"]["bank_bytes"] == 2 * 64 * (PICTURES + 64)
    assert inspection.graphs[SCORER_FILE].parts["familiarity"] >= 2 * PICTURES * 64
    assert inspect_bundle(bundle).data()["familiarity"] is None


def test_another_export_is_the_same_bundle_and_says_what_it_found(
    familiar_checkpoint: Path, familiar_bundle: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_only(monkeypatch, bundle)  # and the scorer, which is not that one's
    (tmp_path / "photos").mkdir()
    for i in range(4):
        (tmp_path / "photos" / f"{i}.png").write_bytes(drawn_png(i))
    flags = ("--name", "familiar", "--photos", tmp_path / "photos")
    shown = export_by_command(familiar_checkpoint, tmp_path / "out", *flags)
    assert f"\nfamiliarity: compared with {PICTURES} training photos, similarity at most " in shown
    assert "off; 0 of 4 photographs lie below 0.01, in PyTorch 0\nbundle: " in shown
    manifest = read_bundle(tmp_path / "out").manifest
    assert manifest.digest == read_bundle(familiar_bundle).manifest.digest
    assert manifest.familiarity is not None
    check = manifest.familiarity.check
    assert check is not None
    assert (check.photos, check.below, check.unfamiliar, check.unfamiliar_pytorch) == (4, 0.01, 0, 0)


def test_a_bank_of_another_size_is_left_out_and_said(
    familiar_checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_only(monkeypatch, bundle)
    other = with_bank(familiar_checkpoint, replace(bank_of(familiar_checkpoint), image_size=48), tmp_path / "other")
    shown = export_by_command(other, tmp_path / "out")
    assert (
        "\nno familiarity: the bank of training photos was made at 48 px, and the bundle is of 32 px; train " in shown
    )
    found = read_bundle(tmp_path / "out")
    assert found.manifest.familiarity is None
    assert found.check is not None
    assert found.check.similarity is None


def test_a_bank_that_is_not_the_checkpoints_is_refused(
    familiar_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = bank_of(familiar_checkpoint)
    for name, wrong, says in (
        ("tower", replace(bank, tower="0" * 64), "it was made by another image tower than the checkpoint's"),
        ("zeros", replace(bank, features=bank.features * 0), "its features are zero, longer than 1, or not finite"),
    ):
        other = with_bank(familiar_checkpoint, wrong, tmp_path / name)
        assert main([str(other), str(tmp_path / "out")]) == 1
        told = capsys.readouterr().err
        assert told.count("\n") == 1, told
        assert told.startswith(
            f"export: {other}/familiarity.safetensors is not this checkpoint's bank of training photos"
        )
        assert says in told
        assert told.endswith("Delete it to do without, or train again.\n")
    assert not (tmp_path / "out").exists()
