"""The image towers with rescaling and normalisation inside: uint8 pixels in, image embeddings out.

BLIP's own is written for the runtimes that will execute it: the patch convolution is a matrix product (its stride is
its size), the class token and all biases before the first layer are part of the position constant, no operator reads a
shape, and attention is one `Attention` operator (opset 23) or plain products that TensorRT fuses. A convolutional tower
is exported as it is.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from transformers import BlipForConditionalGeneration

from export.graphs.resolution import positions_at
from modeling.efficientnet import EfficientNetLite0
from modeling.towers import Tower, tower_of, trained_image_size


class VisionAttention(nn.Module):
    """Self-attention of the tower (a `BlipAttention`): x [B, T, D] → [B, T, D].

    `fused`: one ONNX `Attention` operator, which the CPU and CUDA providers run without storing the scores; otherwise
    MatMul, Softmax, MatMul with the scale on the queries, the form that TensorRT fuses.
    """

    def __init__(self, attention: Any, fused: bool) -> None:
        super().__init__()
        self.qkv: nn.Linear = attention.qkv
        self.projection: nn.Linear = attention.projection
        self.heads: int = attention.num_heads
        self.head_width: int = attention.head_dim
        self.fused = fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scale = 1 / math.sqrt(self.head_width)
        if self.fused:
            seen = torch.onnx.ops.attention(q, k, v, q_num_heads=self.heads, kv_num_heads=self.heads, scale=scale)[0]
        else:
            q, k, v = (self._split(part) for part in (q * scale, k, v))
            seen = torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-1, -2)), dim=-1), v)
            seen = seen.transpose(1, 2).flatten(2)
        projected: torch.Tensor = self.projection(seen)
        return projected

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, x.shape[1], self.heads, self.head_width).transpose(1, 2)


class VisionLayer(nn.Module):
    """One layer of the tower (a `BlipEncoderLayer`), normalised before attention and feed-forward."""

    def __init__(self, layer: Any, fused: bool) -> None:
        super().__init__()
        self.self_attn = VisionAttention(layer.self_attn, fused)
        self.layer_norm1 = layer.layer_norm1
        self.layer_norm2 = layer.layer_norm2
        self.mlp = layer.mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, T, D] → [B, T, D]."""
        x = x + self.self_attn(self.layer_norm1(x))
        out: torch.Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class PatchEmbedding(nn.Module):
    """Normalised images float32 [B, S, S, 3] → [B, tokens, width]: patches, class token and positions.

    A convolution whose stride is its size is a matrix product over patches. The class token and the bias are part of
    the position constant; a row of zeros holds the class token's place.
    """

    weight: torch.Tensor  # [patch * patch * 3, width]
    positions: torch.Tensor  # [1, tokens, width]

    def __init__(self, model: BlipForConditionalGeneration, image_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        embeddings = model.vision_model.embeddings
        patches: nn.Conv2d = embeddings.patch_embedding
        self.dtype = dtype
        self.patch = int(patches.kernel_size[0])
        self.grid = image_size // self.patch
        weight = patches.weight.detach().permute(2, 3, 1, 0).reshape(-1, patches.out_channels)
        self.register_buffer("weight", weight.contiguous().to(dtype))
        positions = positions_at(model, image_size).detach().clone()
        positions[:, :1] += embeddings.class_embedding.detach()
        if patches.bias is not None:
            positions[:, 1:] += patches.bias.detach()
        self.register_buffer("positions", positions.to(dtype))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        grid, patch = self.grid, self.patch
        x = images.view(-1, grid, patch, grid, 3 * patch).transpose(2, 3).reshape(-1, grid * grid, 3 * patch * patch)
        x = nn.functional.pad(x, (0, 0, 1, 0)).to(self.dtype)
        return torch.matmul(x, self.weight) + self.positions


class Normalisation(nn.Module):
    """pixels uint8 [B, S, S, 3] → float32 of the same shape, by one product and one sum.

    Together they are `modeling.towers.normalise`.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        mean, std = torch.tensor(tower.mean), torch.tensor(tower.std)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return pixels.float() * self.scale + self.shift


class VisionEncoder(nn.Module):
    """BLIP's own tower: pixels uint8 [B, S, S, 3] → image_embeds float32 [B, tokens, width].

    S is `image_size`, or the size that the model was trained at; the position embeddings of another size are computed
    here, once (`export.graphs.resolution`). `dtype` is the type of weights and activations; pixels are normalised in
    float32.
    """

    def __init__(
        self,
        model: BlipForConditionalGeneration,
        image_size: int | None = None,
        *,
        fused: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        size = trained_image_size(model.config) if image_size is None else image_size
        tower = model.vision_model if dtype == torch.float32 else copy.deepcopy(model.vision_model).to(dtype)
        self.normalisation = Normalisation(tower_of(model.config))
        self.patch_embedding = PatchEmbedding(model, size, dtype)
        self.layers = nn.ModuleList(VisionLayer(layer, fused) for layer in tower.encoder.layers)
        self.post_layernorm = tower.post_layernorm

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.patch_embedding(self.normalisation(pixels))
        for layer in self.layers:
            x = layer(x)
        embeds: torch.Tensor = self.post_layernorm(x)
        return embeds.float()


class ConvolutionalEncoder(nn.Module):
    """A convolutional tower: pixels uint8 [B, S, S, 3] → image_embeds float32 [B, tokens, width].

    `dtype` is the type of weights and activations; pixels are normalised in float32.
    """

    def __init__(self, model: BlipForConditionalGeneration, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.normalisation = Normalisation(tower_of(model.config))
        tower: Any = model.vision_model
        self.tower: EfficientNetLite0 = tower if dtype == torch.float32 else copy.deepcopy(tower).to(dtype)
        self.dtype = dtype

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        images = self.normalisation(pixels).permute(0, 3, 1, 2).to(self.dtype)
        return self.tower.tokens(images).float()


def encoder_graph(
    model: BlipForConditionalGeneration, image_size: int, *, fused: bool, dtype: torch.dtype
) -> VisionEncoder | ConvolutionalEncoder:
    """The encoder of a model's tower for images of so many pixels a side; `fused`: see `VisionAttention`."""
    if isinstance(model.vision_model, EfficientNetLite0):
        return ConvolutionalEncoder(model, dtype=dtype)
    return VisionEncoder(model, image_size, fused=fused, dtype=dtype)
