"""Label captions as a token tree, so that one decoder pass scores every label.

After the constant prefix the captions of a label set form a tree of tokens, each ended by [SEP].
Constrained decoding walks from the prefix to a leaf and at each fork chooses among the tokens that
follow, so

    log p(label) = sum over the forks on its path of log_softmax(logits of the tokens that follow)[the label's token]

which sums to one over the labels. Places without a fork contribute nothing and are not evaluated.
With ids as targets the only fork is the end of the prefix: the whole scorer is one log-softmax over
the label tokens. With names the forks below it (such as "chicken" → curry, quesadilla, wings) are
packed behind the prefix, each attending to its ancestors. This is the trie constraint of GENRE (De
Cao et al., 2021, arXiv:2010.00904) with locally normalised scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.errors import ContractError

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelTree:
    """What a scorer evaluates: the prefix, the packed nodes behind it, and the forks to read.

    tokens        int64 [T]      prefix (starting with [DEC]) followed by the packed inner nodes
    positions     int64 [T]      position ids: depth in the caption, not place in the packed sequence
    attends       bool  [T, T]   row attends to column: itself and its ancestors
    fork_rows     int64 [F]      rows of the packed sequence whose next-token logits are read
    choice_fork   int64 [C]      for each choice, which fork (0..F-1) it belongs to
    choice_token  int64 [C]      for each choice, the token chosen
    membership    float32 [C, L] 1 where the choice is on the label's path: label_logprobs = choice_logprobs @ membership
    """

    tokens: Int
    positions: Int
    attends: npt.NDArray[np.bool_]
    fork_rows: Int
    choice_fork: Int
    choice_token: Int
    membership: npt.NDArray[np.float32]

    @property
    def labels(self) -> int:
        """How many labels the tree tells apart."""
        return int(self.membership.shape[1])

    def fork_paths(self) -> list[list[int]]:
        """For each fork the token ids from [DEC] to it, which a plain decoder is fed."""
        return [[int(t) for t in self.tokens[self.attends[row]]] for row in self.fork_rows]


def build_label_tree(prefix: Sequence[int], targets: Sequence[Sequence[int]], sep: int) -> LabelTree:
    """Pack the target token ids of all labels behind `prefix` (token ids starting with [DEC]).

    `targets[i]` are the token ids of label i's target, without [SEP] (`sep`), which is added here:
    it tells a name from a longer one that starts with it. Raises `ContractError` for fewer than two
    labels, an empty target, or two labels with the same tokens.
    """
    if len(targets) < 2:
        raise ContractError(f"Scoring needs at least two labels, got {len(targets)}.")
    children = _children(targets, sep)
    forks = [path for path in children if len(children[path]) > 1]
    inner = sorted({path[:n] for path in forks for n in range(1, len(path) + 1)}, key=lambda p: (len(p), p))
    row = {(): len(prefix) - 1} | {path: len(prefix) + i for i, path in enumerate(inner)}

    size = len(prefix) + len(inner)
    attends = np.zeros((size, size), dtype=bool)
    attends[: len(prefix), : len(prefix)] = np.tril(np.ones((len(prefix), len(prefix)), dtype=bool))
    for path in inner:
        attends[row[path], : len(prefix)] = True
        attends[row[path], [row[path[:n]] for n in range(1, len(path) + 1)]] = True

    choices = [(fork, token) for fork in forks for token in children[fork]]
    membership = np.zeros((len(choices), len(targets)), dtype=np.float32)
    for label, target in enumerate(targets):
        path = (*target, sep)
        for i, (fork, token) in enumerate(choices):
            membership[i, label] = path[: len(fork) + 1] == (*fork, token)
    return LabelTree(
        tokens=np.array([*prefix, *(path[-1] for path in inner)], dtype=np.int64),
        positions=np.array([*range(len(prefix)), *(len(prefix) - 1 + len(path) for path in inner)], dtype=np.int64),
        attends=attends,
        fork_rows=np.array([row[fork] for fork in forks], dtype=np.int64),
        choice_fork=np.array([forks.index(fork) for fork, _ in choices], dtype=np.int64),
        choice_token=np.array([token for _, token in choices], dtype=np.int64),
        membership=membership,
    )


def _children(targets: Sequence[Sequence[int]], sep: int) -> dict[tuple[int, ...], list[int]]:
    """Path → the tokens that may follow it, in order of first use."""
    children: dict[tuple[int, ...], list[int]] = {(): []}
    leaves: dict[tuple[int, ...], int] = {}
    for label, target in enumerate(targets):
        if not target:
            raise ContractError(f"Label {label} has no tokens; the tokenizer cannot write its target.")
        path = (*target, sep)
        if path in leaves:
            raise ContractError(
                f"Labels {leaves[path]} and {label} have the same tokens {list(target)}; the tokenizer cannot tell them "
                "apart. Rename one of them."
            )
        leaves[path] = label
        for n, token in enumerate(path):
            following = children.setdefault(path[:n], [])
            if token not in following:
                following.append(token)
    return children
