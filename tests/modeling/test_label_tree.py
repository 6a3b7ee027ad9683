"""The token tree: forks, ancestors and path sums, against walking the captions one by one."""

from __future__ import annotations

import numpy as np
import pytest

from contract.errors import ContractError
from modeling.label_tree import LabelTree, build_label_tree

SEP = 3


def brute_force(tree: LabelTree, prefix: list[int], targets: list[list[int]], logit: np.ndarray) -> np.ndarray:
    """log p(label) by walking: at every place, softmax over the tokens that some label has next."""
    paths = [(*target, SEP) for target in targets]
    scores = np.zeros(len(paths))
    for i, path in enumerate(paths):
        for n in range(len(path)):
            options = sorted({p[n] for p in paths if p[:n] == path[:n] and len(p) > n})
            row = [table(path[:n], token, logit) for token in options]
            scores[i] += table(path[:n], path[n], logit) - np.log(np.exp(row).sum())
    return scores


def table(before: tuple[int, ...], token: int, logit: np.ndarray) -> float:
    """A made-up next-token logit that depends on the whole path."""
    return float(logit[hash((before, token)) % len(logit)])


def tree_scores(tree: LabelTree, prefix: list[int], logit: np.ndarray) -> np.ndarray:
    paths = tree.fork_paths()
    chosen = np.zeros(len(tree.choice_token))
    for fork in range(len(tree.fork_rows)):
        mine = tree.choice_fork == fork
        row = np.array([table(tuple(paths[fork][len(prefix) :]), int(t), logit) for t in tree.choice_token[mine]])
        chosen[mine] = row - np.log(np.exp(row).sum())
    return chosen @ tree.membership


def test_scores_equal_walking_the_captions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        targets = [list(t) for t in {tuple(rng.integers(10, 14, rng.integers(1, 4)).tolist()) for _ in range(9)}]
        if len(targets) < 2:
            continue
        logit, prefix = rng.normal(size=997), [5, 6, 7]
        tree = build_label_tree(prefix, targets, SEP)
        scores = tree_scores(tree, prefix, logit)
        assert np.allclose(scores, brute_force(tree, prefix, targets, logit), atol=1e-6)
        assert np.exp(scores).sum() == pytest.approx(1, abs=1e-5)


def test_ids_need_the_prefix_only() -> None:
    tree = build_label_tree([5, 6, 7], [[20], [21], [22]], SEP)
    assert tree.tokens.tolist() == [5, 6, 7]
    assert tree.fork_rows.tolist() == [2]
    assert np.array_equal(tree.membership, np.eye(3))


def test_a_name_that_starts_another_is_told_apart_by_sep() -> None:
    tree = build_label_tree([5], [[8], [8, 9]], SEP)
    assert sorted(tree.choice_token.tolist()) == [SEP, 9]
    assert tree.fork_paths() == [[5, 8]]


def test_packed_nodes_attend_to_ancestors_only() -> None:
    tree = build_label_tree([5, 6], [[10, 11], [10, 12], [13, 11], [13, 14]], SEP)
    assert tree.tokens.tolist() == [5, 6, 10, 13]
    assert tree.positions.tolist() == [0, 1, 2, 2]
    assert tree.attends[3].tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("targets", "says"), [([[4]], "at least two"), ([[4], []], "no tokens"), ([[4], [4]], "same tokens")]
)
def test_refuses_what_cannot_be_scored(targets: list[list[int]], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        build_label_tree([5], targets, SEP)
