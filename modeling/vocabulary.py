"""Tokenizers: BERT WordPiece with BLIP's two extra tokens, from a file or from the captions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import BertTokenizer, PreTrainedTokenizerBase

from contract.errors import ContractError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DECODE_START = "[DEC]"  # the first token of every caption, in training as in generation
ENCODE = "[ENC]"  # unused by captioning; kept so that ids are BLIP's


def caption_vocabulary(captions: Iterable[str]) -> dict[str, int]:
    """A small WordPiece vocabulary: the captions' words, then characters to spell any word."""
    splitter = BertTokenizer(vocab=dict.fromkeys(SPECIAL, 0) | {t: i for i, t in enumerate(SPECIAL)})
    backend = splitter.backend_tokenizer
    words: dict[str, None] = {}
    for caption in captions:
        text = backend.normalizer.normalize_str(caption)
        words |= dict.fromkeys(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text))
    letters = sorted({c for word in words for c in word} | set("abcdefghijklmnopqrstuvwxyz0123456789"))
    pieces = [*SPECIAL, *words, *(c for c in letters if c not in words), *(f"##{c}" for c in letters)]
    return {piece: i for i, piece in enumerate(pieces)}


def read_vocabulary(path: Path) -> dict[str, int]:
    """A vocab.txt, one piece a line.

    Raises `ContractError` when it is missing or lacks the special tokens.
    """
    try:
        pieces = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"The vocabulary {path} cannot be read: {error}.") from None
    missing = [token for token in SPECIAL if token not in pieces]
    if missing:
        raise ContractError(f"The vocabulary {path} lacks {', '.join(missing)}; it is not a BERT vocabulary.")
    return {piece: i for i, piece in enumerate(pieces)}


def new_tokenizer(captions: Iterable[str], vocabulary: Path | None = None) -> BertTokenizer:
    """The tokenizer of a new model, from a vocab.txt or else made from its captions."""
    return blip_tokenizer(caption_vocabulary(captions) if vocabulary is None else read_vocabulary(vocabulary))


def blip_tokenizer(vocabulary: dict[str, int]) -> BertTokenizer:
    """The vocabulary, then [DEC] and [ENC], as in BLIP (where they are 30,522 and 30,523)."""
    return with_caption_start(BertTokenizer(vocab=vocabulary, do_lower_case=True))


def with_caption_start(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Add [DEC] and [ENC] where they are missing.

    BLIP's published tokenizer is plain BERT's, while its model has rows for both.
    """
    if tokenizer.bos_token_id is None:
        tokenizer.add_special_tokens({"bos_token": DECODE_START, "additional_special_tokens": [ENCODE]})
    return tokenizer
