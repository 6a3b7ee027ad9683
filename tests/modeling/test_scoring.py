"""Label scores against the slow ways: constrained decoding, and one plain pass per fork."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contract.caption import CaptionFormat
from modeling.captions import label_tree
from modeling.load import load_blip
from modeling.scoring import (
    constrained_labels,
    energy,
    fork_logits,
    free_captions,
    greedy_tokens,
    image_embeds,
    label_logprobs,
    label_logprobs_by_fork,
    next_logits,
)
from tests.modeling.conftest import IDS, LABELS, NAMES, noise, small_blip


@pytest.mark.parametrize("caption", [IDS, NAMES])
def test_scores_choose_what_constrained_decoding_chooses(caption: CaptionFormat) -> None:
    blip, pixels = small_blip(caption, gain=3), noise(24)
    tree = label_tree(blip.tokenizer, caption, LABELS)
    with torch.no_grad():
        scores = label_logprobs(blip.model, blip.embed(pixels), tree)
    assert torch.allclose(scores.exp().sum(1), torch.ones(24), atol=1e-4)
    prefix = blip.tokenizer(caption.prefix).input_ids[1:-1]
    targets = [blip.tokenizer(caption.target_text(label)).input_ids[1:-1] for label in LABELS]
    wanted = constrained_labels(blip, pixels, [blip.tokenizer.bos_token_id, *prefix], targets)
    assert scores.argmax(1).tolist() == wanted


@pytest.mark.parametrize("caption", [IDS, NAMES])
def test_one_pass_scores_as_a_pass_for_each_fork(caption: CaptionFormat) -> None:
    blip = small_blip(caption, gain=3)
    tree, embeds = label_tree(blip.tokenizer, caption, LABELS), image_embeds(blip.model, noise(5))
    found = label_logprobs(blip.model, embeds, tree)
    assert torch.allclose(found, label_logprobs_by_fork(blip.model, embeds, tree), atol=1e-5)
    assert found.std(dim=0).max() > 1e-3, "the scores depend on the picture"


@pytest.mark.parametrize("caption", [IDS, NAMES])
def test_the_energy_is_that_of_the_first_words(caption: CaptionFormat) -> None:
    blip = small_blip(caption, gain=3)
    tree, embeds = label_tree(blip.tokenizer, caption, LABELS), image_embeds(blip.model, noise(5))
    prefix = [blip.tokenizer.bos_token_id, *blip.tokenizer(caption.prefix).input_ids[1:-1]]
    firsts = {blip.tokenizer(caption.target_text(label)).input_ids[1] for label in LABELS}
    logits = next_logits(blip.model, torch.tensor([prefix] * 5), embeds)
    found = energy(fork_logits(blip.model, embeds, tree), tree)
    assert torch.allclose(found, logits[:, sorted(firsts)].exp().sum(1).log(), atol=1e-4)


def test_free_captions_start_with_dec(checkpoint: Path) -> None:
    blip = load_blip(str(checkpoint))
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    assert all(text.startswith("a photo of delicious") for text in free_captions(blip, pixels))


def test_free_captions_are_the_greedy_tokens(checkpoint: Path) -> None:
    blip = load_blip(checkpoint)
    pixels = noise(3, size=32)
    rows = greedy_tokens(blip.model, pixels, 24)
    assert all(row[0] == blip.tokenizer.bos_token_id for row in rows)
    assert all(blip.tokenizer.sep_token_id not in row[:-1] for row in rows)
    assert free_captions(blip, pixels) == [blip.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    logits = next_logits(blip.model, torch.tensor([rows[0][:4]]), image_embeds(blip.model, pixels[:1]))
    assert int(logits.argmax()) == rows[0][4]


def test_another_image_size_is_interpolated_where_it_is_asked_for() -> None:
    blip = small_blip()
    with torch.no_grad():
        assert torch.equal(image_embeds(blip.model, noise(2)), blip.embed(noise(2)))
    assert image_embeds(blip.model, noise(2, size=32)).shape == (2, 17, 16)
    with pytest.raises(RuntimeError, match="must match the size"), torch.no_grad():
        blip.embed(noise(2, size=32))
