"""The gate's look at familiarity: how far it is from PyTorch, and how many photos more it calls unfamiliar."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contract.familiarity import BELOW
from contract.precision import LIMITS, Precision
from export.gate.familiarity import FamiliarityReport
from export.gate.report import ParityError
from modeling.familiarity import Bank, make_bank, pooled

EMBEDS = torch.randn(300, 4, 8, generator=torch.Generator().manual_seed(0)) + 1


@pytest.fixture(scope="module")
def bank() -> Bank:
    found = make_bank(pooled(EMBEDS[:200]), tower="t", image_size=32)
    assert found is not None
    return found


def look(bank: Bank, precision: Precision, similarity: torch.Tensor, *, gate: bool = True) -> FamiliarityReport:
    """What a graph with these similarities of 100 other photos would make of them."""
    report = FamiliarityReport(bank, precision, gate)
    share = bank.familiarity(similarity).numpy()
    report.compare(similarity.numpy(), share, EMBEDS[200:], real=True)
    return report


def test_equal_numbers_pass(bank: Bank) -> None:
    wanted = bank.similarity(pooled(EMBEDS[200:]))
    report = look(bank, "fp32", wanted)
    report.compare(wanted[:5].numpy(), bank.familiarity(wanted[:5]).numpy(), EMBEDS[200:205], real=False)
    check = report.finish()
    assert (check.photos, check.below) == (100, BELOW)
    assert check.largest_difference < 1e-6  # a product of five rows may end in other bits than that of a hundred
    assert check.unfamiliar == check.unfamiliar_pytorch == int((bank.familiarity(wanted) < BELOW).sum())


@pytest.mark.parametrize("precision", LIMITS)
def test_a_similarity_that_is_off_is_refused(bank: Bank, precision: Precision) -> None:
    wanted, most = bank.similarity(pooled(EMBEDS[200:])), LIMITS[precision].similarity
    assert look(bank, precision, wanted + most * 0.9).largest > most / 2
    with pytest.raises(ParityError, match=rf"similarity to the training photos differs from PyTorch .* in {precision}"):
        look(bank, precision, wanted + most * 1.1)
    assert look(bank, precision, wanted + most * 1.1, gate=False).largest > most
    with pytest.raises(ParityError, match="not finite"):
        look(bank, precision, wanted * torch.nan)


def test_a_share_that_is_not_the_similaritys_is_refused(bank: Bank) -> None:
    wanted = bank.similarity(pooled(EMBEDS[200:]))
    with pytest.raises(ParityError, match="is not the share of the training photos"):
        FamiliarityReport(bank, "fp32").compare(wanted.numpy(), np.zeros(100, np.float32), EMBEDS[200:], real=True)


@pytest.mark.parametrize(("more", "passes"), [(2, True), (3, False)])
def test_a_precision_that_refuses_more_photos_is_refused(
    bank: Bank, more: int, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = bank.similarity(pooled(EMBEDS[200:]))
    familiar = (bank.familiarity(wanted) >= BELOW).nonzero().flatten()
    found = wanted.clone()
    found[familiar[:more]] = -1
    report = look(bank, "int8", found, gate=False)
    report.gate = True
    if passes:
        assert report.finish().unfamiliar == 100 - len(familiar) + more
    else:
        with pytest.raises(
            ParityError, match=rf"In int8 {100 - len(familiar) + more} of 100 photographs look unfamiliar"
        ):
            report.finish()
