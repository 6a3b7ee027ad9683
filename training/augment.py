"""Random crop and mirror of a batch, on the device, from a generator of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def augment(pixels: torch.Tensor, generator: torch.Generator, *, flip: bool, crop: float) -> torch.Tensor:
    """uint8 pixels [B, S, S, 3] → float32 pixels (0..255) of the same shape, each photo cropped and mirrored by chance.

    A crop keeps between `crop` and 1 of the area, at an aspect ratio between 3/4 and 4/3, and is resized back
    bilinearly (random resized crop, Szegedy et al. 2015). `generator` lives on the CPU, so that the same seed gives
    the same crops on every device.
    """
    count = len(pixels)
    images = pixels.permute(0, 3, 1, 2).float()
    if crop < 1:
        area = torch.empty(count).uniform_(crop, 1, generator=generator)
        aspect = torch.empty(count).uniform_(-0.2877, 0.2877, generator=generator).exp()  # log(4/3)
        width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    else:
        width = height = torch.ones(count)
    place = torch.empty(2, count).uniform_(-1, 1, generator=generator)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0) if flip else torch.ones(count)
    if crop == 1 and not flip:
        return pixels.float()
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * mirror, height
    theta[:, 0, 2], theta[:, 1, 2] = place[0] * (1 - width), place[1] * (1 - height)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False).permute(0, 2, 3, 1)
