"""Captions as token ids: where they are split, and how they are spelt."""

from __future__ import annotations

from typing import Any

import pytest

from contract.caption import CaptionFormat
from contract.errors import ContractError
from contract.labels import FOOD101, LabelSet
from modeling.captions import IGNORED, label_tree, packed_captions, split_captions
from modeling.vocabulary import blip_tokenizer, new_tokenizer, read_vocabulary
from tests.conftest import shared_data
from tests.modeling.conftest import IDS, LABELS, NAMES


class Pieces:
    """A tokenizer that knows a few texts: [CLS] is 2, [SEP] 3, [DEC] 5."""

    bos_token_id = 5

    def __init__(self, known: dict[str, list[int]]) -> None:
        self._known = known

    def __call__(self, text: str) -> Any:
        return type("Encoding", (), {"input_ids": [2, *self._known[text], 3]})


def test_captions_are_split_after_the_prefix() -> None:
    labels, caption = LabelSet.from_names(["pie", "ice cream"]), CaptionFormat(template="a {target}", target="name")
    known = {"a": [8, 9], "a pie": [8, 9, 20], "a ice cream": [8, 9, 21, 22]}
    assert split_captions(Pieces(known), caption, labels) == ([5, 8, 9], [[20], [21, 22]])
    merges = known | {"a ice cream": [8, 7, 22]}
    with pytest.raises(ContractError, match="do not share"):
        split_captions(Pieces(merges), caption, labels)


@pytest.mark.parametrize("caption", [NAMES, IDS])
def test_captions_are_spelt_from_dec_to_sep(caption: CaptionFormat) -> None:
    tokenizer = new_tokenizer(caption.render(label) for label in LABELS)
    packed = packed_captions(tokenizer, caption, LABELS)
    for row, label in enumerate(LABELS):
        learnt = [int(t) for t in packed.following[row] if t != IGNORED]
        assert tokenizer.decode(learnt) == f"{caption.render(label)} [SEP]"
        fed = packed.tokens[row][packed.spoken[row][: len(learnt)]].tolist()
        assert fed == [tokenizer.bos_token_id, *learnt[:-1]], "each token is fed where it was predicted before"
        assert packed.positions[row][packed.spoken[row][: len(learnt)]].tolist() == list(range(len(learnt)))


def test_the_real_vocabulary_gives_one_token_ids() -> None:
    tokenizer = blip_tokenizer(read_vocabulary(shared_data("bert_base_uncased_vocab.txt")))
    assert (len(tokenizer), tokenizer.bos_token_id, tokenizer.sep_token_id) == (30_524, 30_522, 102)
    packed = packed_captions(tokenizer, IDS, FOOD101)
    assert packed.tokens[6].tolist() == [30_522, 1037, 6302, 1997, 12090, 1020]
    assert packed.following[6].tolist() == [1037, 6302, 1997, 12090, 1020, 102]
    assert bool((packed.following != IGNORED).all()), "with ids there is no padding"
    assert len(label_tree(tokenizer, IDS, FOOD101).fork_rows) == 1
    assert len(label_tree(tokenizer, NAMES, FOOD101).fork_rows) > 5
