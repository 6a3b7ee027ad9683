"""What export stores for the self-check: pictures with the same bytes everywhere, and PyTorch's own answers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.bundle import read_bundle
from contract.self_check import CHECK_FILE
from export.bundle import export_bundle
from export.gate.self_check import check_pixels
from modeling.checkpoint import load_checkpoint
from modeling.scoring import greedy_tokens, image_embeds, label_logprobs_by_fork, next_logits


@pytest.mark.parametrize(("size", "begins"), [(32, "d7d581f1cadcf118"), (384, "043fa1fe7cff55f7")])
def test_pictures_have_the_same_bytes_everywhere(size: int, begins: str) -> None:
    pixels = check_pixels(size)
    assert pixels.shape == (3, size, size, 3)
    assert pixels.dtype == np.uint8
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == begins
    assert pixels.std(axis=(1, 2)).min() > 20, "not flat in any colour of any picture"


def test_two_exports_are_one_bundle(checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    one = read_bundle(bundle).manifest  # made by another process
    two = export_bundle(load_checkpoint(checkpoint), tmp_path / "two", name=one.name, opset=23, compare=False)
    assert one.digest == two.digest
    assert one.files == two.files
    assert CHECK_FILE in one.files
    without = {name: entry for name, entry in one.files.items() if name != CHECK_FILE}
    assert one.model_copy(update={"files": without}).digest == one.digest, "the check is no part of the model"


def test_it_holds_pytorchs_answers(checkpoint: Path, bundle: Path) -> None:
    loaded, check = load_checkpoint(checkpoint), read_bundle(bundle).check
    tree, sep = loaded.tree(), loaded.tokenizer.sep_token_id
    assert check is not None
    assert check.label_logprobs is not None
    assert tree is not None
    pixels = torch.from_numpy(check.pixels)
    embeds = image_embeds(loaded.model, pixels)
    assert np.abs(check.embeds - embeds.numpy()[:, check.places]).max() < 1e-5
    assert {0, embeds.shape[1] - 1} <= set(check.places.tolist())
    logprobs = label_logprobs_by_fork(loaded.model, embeds, tree)
    assert np.abs(check.label_logprobs - logprobs.numpy()).max() < 1e-4
    for row, caption in enumerate(greedy_tokens(loaded.model, pixels, check.tokens.shape[1])):
        length = check.lengths[row]
        assert check.caption[row, :length].tolist() == caption[1:]
        assert caption[-1] == sep or length == check.tokens.shape[1]
        for step in range(length):
            ids = torch.tensor([caption[: step + 1]])
            logits = next_logits(loaded.model, ids, embeds[row : row + 1])[0]
            logprobs = logits.log_softmax(dim=-1)
            tokens = torch.from_numpy(check.tokens[row, step])
            assert len(set(tokens.tolist())) == 5
            for found in (logprobs[tokens], logprobs.topk(5).values):  # two that are as good as equal may change places
                assert np.abs(check.token_logprobs[row, step] - found.numpy()).max() < 1e-4
