"""Starting weights for the patch embedding of a new model: cosine patterns instead of noise.

Neighbouring pixels of a picture are nearly equal, so random filters see little but the mean colour and a small image
tower takes long to find edges. The two-dimensional cosine patterns decorrelate a patch (which is why JPEG uses them),
and scaling them up with frequency evens out their variance: a whitening that needs no data.
"""

from __future__ import annotations

import math

import torch

_COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))  # light, and two colour differences
_COLOUR_GAIN = 3.0  # colour differences vary less than light does


def cosine_filters(width: int, patch: int, generator: torch.Generator) -> torch.Tensor:
    """Filters float32 [width, 3, patch, patch]: the smoothest cosine patterns, mixed by a random rotation."""
    steps = torch.arange(patch) + 0.5
    waves = torch.stack([torch.cos(math.pi * steps * k / patch) for k in range(patch)])
    waves /= waves.norm(dim=1, keepdim=True)
    colours = torch.tensor(_COLOURS)
    colours /= colours.norm(dim=1, keepdim=True)
    patterns = [
        (
            (1 + math.hypot(down, across)) * (1.5 if colour else 1.0),  # order: smooth first, light before colour
            (1 + math.hypot(down, across)) * (_COLOUR_GAIN if colour else 1.0),
            torch.einsum("c,y,x->cyx", colours[colour], waves[down], waves[across]),
        )
        for down in range(patch)
        for across in range(patch)
        for colour in range(3)
    ]
    patterns.sort(key=lambda entry: entry[0])
    chosen = torch.zeros(width, 3, patch, patch)
    for row, (_, gain, pattern) in enumerate(patterns[:width]):
        chosen[row] = gain * pattern / patch
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    return torch.einsum("ij,jcyx->icyx", rotation, chosen)
