"""Tokenizers of new models: any name can be spelt, and a file that is no vocabulary is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.errors import ContractError
from modeling.vocabulary import SPECIAL, new_tokenizer, read_vocabulary


def test_captions_words_are_one_piece_and_others_are_spelt() -> None:
    tokenizer = new_tokenizer(["a photo of pie", "a photo of Crème brûlée"])
    assert tokenizer.tokenize("a photo of creme brulee") == ["a", "photo", "of", "creme", "brulee"]
    assert tokenizer.tokenize("pho 7") == ["p", "##h", "##o", "7"]
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == list(SPECIAL)
    assert tokenizer.bos_token == "[DEC]"
    assert tokenizer.bos_token_id == len(tokenizer) - 2, "[DEC] and [ENC] come last, as in BLIP"


def test_a_vocabulary_file_is_read_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL, "pie", "##s"]) + "\n")
    assert new_tokenizer([], path)("pies").input_ids == [2, 5, 6, 3]
    path.write_text("pie\n[SEP]\n")
    with pytest.raises(ContractError, match=r"lacks \[PAD\], \[UNK\], \[CLS\], \[MASK\]"):
        read_vocabulary(path)
    with pytest.raises(ContractError, match="cannot be read"):
        read_vocabulary(tmp_path / "nowhere")
