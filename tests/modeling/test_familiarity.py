"""The bank: what similarity and familiarity are, by the slow way, and files that are none of this checkpoint's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contract.errors import CheckpointError
from contract.familiarity import MOST_PHOTOS, NEIGHBOURS
from modeling.checkpoint import load_checkpoint
from modeling.familiarity import (
    ABOUT,
    FAMILIARITY_FILE,
    FOLDS,
    RANK,
    VALIDATION,
    Bank,
    make_bank,
    pooled,
    read_bank,
    save_bank,
)

WIDTH = 8


def features(count: int, seed: int = 0) -> torch.Tensor:
    """Float32 [count, WIDTH], of length 1 and not far from one another."""
    noise = torch.randn(count, 5, WIDTH, generator=torch.Generator().manual_seed(seed))
    return pooled(noise + 1)


def made(count: int = 30) -> Bank:
    bank = make_bank(features(count), tower="t" * 64, image_size=32)
    assert bank is not None
    return bank


def test_pooled_features_are_the_direction_of_the_mean() -> None:
    embeds = torch.tensor([[[3.0, 0.0], [3.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert torch.allclose(pooled(embeds), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_similarity_is_the_mean_cosine_to_the_nearest() -> None:
    bank, photos = made(), features(4, seed=1)
    rows = bank.features.float() @ bank.basis.float().T  # of so few channels none is left out
    cosines = torch.nn.functional.cosine_similarity(photos[:, None], rows[None], dim=2)
    wanted = cosines.sort(dim=1, descending=True).values[:, :NEIGHBOURS].mean(dim=1)
    assert torch.allclose(bank.similarity(photos), wanted, atol=1e-3)


def test_a_member_is_held_against_the_others() -> None:
    bank, rows = made(), features(30)
    for place in (0, 17):
        others = torch.stack([row for at, row in enumerate(rows) if at % FOLDS != place % FOLDS])
        without = make_bank(others, tower="t", image_size=32)
        assert without is not None
        own = without.similarity(rows[place : place + 1])
        assert (bank.reference - own).abs().min() < 1e-6
        assert bank.similarity(rows[place : place + 1]) > own, "with itself among the nearest it is more alike"


def test_few_directions_are_kept_and_say_nearly_the_same() -> None:
    """Photos that differ in 40 of 300 channels, and hardly in the others."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(400, 1, 300, generator=generator) * torch.where(torch.arange(300) < 40, 1.0, 0.02) + 0.2
    rows = pooled(wide)
    bank = make_bank(rows[:300], tower="t", image_size=32)
    assert bank is not None
    assert (bank.basis.shape, bank.features.shape) == ((300, RANK), (300, RANK))
    whole = (rows[300:] @ rows[:300].T).topk(NEIGHBOURS, dim=1).values.mean(dim=1)
    assert (bank.similarity(rows[300:]) - whole).abs().max() < 0.01


def test_familiarity_is_the_share_that_is_less_alike() -> None:
    bank = replace(made(), reference=torch.tensor([0.1, 0.2, 0.2, 0.4]))
    found = bank.familiarity(torch.tensor([0.0, 0.1, 0.15, 0.2, 0.3, 0.9]))
    assert found.tolist() == [0, 0, 0.25, 0.25, 0.75, 1]


def test_new_photos_of_the_same_kind_are_as_familiar_as_members() -> None:
    """Exchangeable: their familiarity is spread evenly over 0 to 1."""
    rows = features(1000)
    bank = make_bank(rows[:500], tower="t", image_size=32)
    assert bank is not None
    shares = bank.familiarity(bank.similarity(rows[500:]))
    assert abs(float(shares.mean()) - 0.5) < 0.05
    assert float((shares < 0.05).float().mean()) < 0.1
    assert float(bank.familiarity(bank.similarity(-rows[:1]))) == 0


def test_a_reference_of_validation_photos() -> None:
    rows, photos = features(30), features(12, seed=1)
    bank = make_bank(rows, tower="t", image_size=32, validation=photos)
    assert bank is not None
    assert (bank.origin, bank.reference.tolist()) == (VALIDATION, bank.similarity(photos).sort().values.tolist())


def test_too_few_photos_have_no_bank() -> None:
    assert make_bank(features(NEIGHBOURS + 1), tower="t", image_size=32) is None
    assert make_bank(features(NEIGHBOURS + 2), tower="t", image_size=32) is not None
    with pytest.raises(ValueError, match=f"at most {MOST_PHOTOS} photos"):
        make_bank(torch.zeros(MOST_PHOTOS + 1, WIDTH), tower="t", image_size=32)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_features_that_are_no_direction_are_refused(value: float) -> None:
    rows = features(30)
    rows[3] = value
    with pytest.raises(CheckpointError, match="not all of length 1: zero, or not finite"):
        make_bank(rows, tower="t", image_size=32)


def test_photos_that_are_all_the_same_make_no_bank() -> None:
    """Copies of a photo or two: whether another copy is below all of them would be up to rounding."""
    for kinds in (1, 2):
        copies = features(kinds).repeat_interleave(30 // kinds, dim=0)
        with pytest.raises(CheckpointError, match="look all the same"):
            make_bank(copies, tower="t", image_size=32)
    one_other = torch.cat([features(1).repeat(299, 1), features(1, seed=1)])
    with pytest.raises(CheckpointError, match="look all the same"):
        make_bank(one_other, tower="t", image_size=32)
    assert make_bank(torch.cat([features(30)] * 2), tower="t", image_size=32) is not None


def test_a_bank_that_could_not_be_read_is_not_made() -> None:
    """Of 160 directions, 128 are kept: nothing is left of some photos."""
    with pytest.raises(CheckpointError, match="make no bank: its features are zero"):
        make_bank(torch.eye(160).repeat_interleave(torch.arange(160) % 12 + 1, dim=0), tower="t", image_size=32)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    bank = made()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_bank(bank, tmp_path / folder)
    assert (tmp_path / "a" / FAMILIARITY_FILE).read_bytes() == (tmp_path / "b" / FAMILIARITY_FILE).read_bytes()
    found = read_bank(tmp_path / "a", tower=bank.tower, width=WIDTH)
    assert found is not None
    assert torch.equal(found.basis, bank.basis)
    assert torch.equal(found.features, bank.features)
    assert torch.equal(found.reference, bank.reference)
    assert (found.tower, found.image_size, found.origin) == (bank.tower, bank.image_size, bank.origin)
    assert read_bank(tmp_path, tower=bank.tower, width=WIDTH) is None


def broken(**changes: torch.Tensor) -> Bank:
    return replace(made(), **changes)  # type: ignore[arg-type]


ROWS, BASIS = made().features, made().basis


@pytest.mark.parametrize(
    ("bank", "says"),
    [
        (broken(features=ROWS * 0), "its features are zero, longer than 1, or not finite"),
        (broken(features=ROWS.clone().fill_(torch.nan)), "its features are zero, longer than 1, or not finite"),
        (broken(features=ROWS * 2), "its features are zero, longer than 1, or not finite"),
        (broken(basis=BASIS * 0), "its basis has directions that are not of length 1"),
        (broken(basis=BASIS[:5]), r"its basis is torch.float16 \[5, 8\], not float16 \[8, directions\]"),
        (broken(basis=BASIS[:, :0]), r"its basis is torch.float16 \[8, 0\]"),
        (broken(features=ROWS[:, :5]), r"its features are torch.float16 \[30, 5\], not float16 \[photos, 8\]"),
        (broken(features=ROWS.float()), r"its features are torch.float32"),
        (broken(features=ROWS[:NEIGHBOURS]), f"it holds {NEIGHBOURS} photos, not {NEIGHBOURS + 1} to {MOST_PHOTOS}"),
        (broken(reference=made().reference.flip(0)), "its reference values are not finite and sorted"),
        (broken(reference=made().reference * torch.nan), "its reference values are not finite and sorted"),
        (broken(reference=torch.zeros(0)), r"its reference is torch.float32 \[0\]"),
        (broken(reference=made().reference + 1), "its reference values are no cosines"),
        (replace(made(), tower="u" * 64), "it was made by another image tower than the checkpoint's"),
    ],
)
def test_another_bank_is_refused(tmp_path: Path, bank: Bank, says: str) -> None:
    save_bank(bank, tmp_path)
    with pytest.raises(
        CheckpointError, match=rf"is not this checkpoint's bank of training photos: .*{says}.*\. Delete"
    ):
        read_bank(tmp_path, tower="t" * 64, width=WIDTH)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    save_bank(made(), tmp_path)
    path = tmp_path / FAMILIARITY_FILE
    whole, tensors = path.read_bytes(), load_file(path)
    for data in (whole[:-7], whole[:20], b"", b"no tensors"):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="is not this checkpoint's bank"):
            read_bank(tmp_path, tower="t" * 64, width=WIDTH)
    about = {"tower": "t" * 64, "image_size": 32, "origin": "left-out", "neighbours": NEIGHBOURS}
    for change, says in (
        ({"origin": "rumour"}, "does not say what bank"),
        ({"image_size": 0}, "does not say what bank"),
        ({"neighbours": 5}, "it is of another kind"),
    ):
        save_file(tensors, path, metadata={ABOUT: json.dumps(about | change)})
        with pytest.raises(CheckpointError, match=says):
            read_bank(tmp_path, tower="t" * 64, width=WIDTH)
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError, match=r"does not say what bank of training photos it is\. Delete it to do with"
    ):
        read_bank(tmp_path, tower="t" * 64, width=WIDTH)
    save_file({"features": tensors["features"]}, path, metadata={ABOUT: json.dumps(about)})
    with pytest.raises(CheckpointError, match="it is of another kind"):
        read_bank(tmp_path, tower="t" * 64, width=WIDTH)


def test_a_checkpoint_has_its_bank(familiar_checkpoint: Path, checkpoint: Path) -> None:
    bank = load_checkpoint(familiar_checkpoint).bank
    assert bank is not None
    assert bank.features.shape == (64, 64)
    assert load_checkpoint(checkpoint).bank is None
