"""Random changes of the training photos, in batches on the device, with kornia; and mixup.

    augmenter = Augmenter(recipe.augment, image_size=384, device=device)
    torch.manual_seed(seed_of_this_step)
    pixels = augmenter(batch.pixels)                                  # uint8 → float32 [B, 384, 384, 3], 0..255
    partner, share, targets = mixup(batch.labels, classes=101, alpha=recipe.augment.mixup)
    pixels = blend(pixels, partner, share)

Everything is drawn from torch's generators (kornia uses no other), nearly all of it from the one on the CPU: the same
seed and batch give the same photos in every process.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from kornia.augmentation import ColorJitter
from kornia.augmentation.auto import RandAugment
from kornia.color import rgb_to_yuv
from kornia.geometry.transform import get_affine_matrix2d, warp_affine

from training.recipe import AugmentRecipe

HUE = 0.1  # largest hue turn at `colour` 1, in turns: the colour of food tells what it is

# RandAugment's operations, in kornia's ranges but for two: it takes shear in half turns, where 0.093 is the paper's 0.3,
# and it adds brightness, where 0.9 would leave a white or a black picture.
# kornia runs some of them backwards: solarize is strongest at m = 1, and colour, contrast, brightness and sharpness
# go down below m = 15 and up above. So falling ranges, whose strong end is the low one, get 30 - m, and those four
# are listed once for each direction.
RISING = [
    ("auto_contrast", 0, 1), ("equalize", 0, 1), ("invert", 0, 1), ("rotate", -30.0, 30.0), ("posterize", 4.0, 8.0),
    ("solarize_add", 0.0, 0.43), ("shear_x", -0.093, 0.093), ("shear_y", -0.093, 0.093), ("translate_x", -0.1, 0.1),
    ("translate_y", -0.1, 0.1), ("color", 1.0, 1.9), ("contrast", 1.0, 1.9), ("brightness", 1.0, 1.5),
    ("sharpness", 1.0, 1.9),
]  # fmt: skip
FALLING = [
    ("solarize", 0.0, 1.0), ("color", 0.1, 1.0), ("contrast", 0.1, 1.0), ("brightness", 0.5, 1.0),
    ("sharpness", 0.1, 1.0),
]  # fmt: skip


class Augmenter:
    """uint8 or float pixels [B, S, S, 3] (0..255) → float32 of the same shape and range, each photo changed by chance.

    Random resized crop (Szegedy et al. 2015, arXiv:1409.4842), mirror and rotation are one bilinear resampling; then
    colour, then RandAugment (Cubuk et al. 2019, arXiv:1909.13719). A recipe with all of them off costs a cast.
    """

    def __init__(self, recipe: AugmentRecipe, image_size: int, device: torch.device | str) -> None:
        self._recipe, self._size, self._device = recipe, image_size, torch.device(device)
        self._colour = ColorJitter(recipe.colour, recipe.colour, recipe.colour)
        self._to_yuv = rgb_to_yuv(torch.eye(3).view(1, 3, 3, 1)).view(3, 3)
        self._operations = _operations(recipe.rand_magnitude) if recipe.rand_augment else []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Change a batch. Raises `ValueError` when the photos are not [B, S, S, 3]."""
        size, recipe = self._size, self._recipe
        if pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"Expected pixels [B, {size}, {size}, 3], got {list(pixels.shape)}.")
        pixels = pixels.to(self._device)
        if len(pixels) == 0:
            return pixels.float()
        warped = recipe.crop < 1 or recipe.rotate > 0
        if recipe.flip and not warped:
            mirror = _mirror(len(pixels)).to(self._device)
            pixels = torch.where(mirror[:, None, None, None], pixels.flip(2), pixels)
        images = pixels.float().permute(0, 3, 1, 2)
        if warped:
            images = self._warp(images)
        if recipe.colour > 0 or recipe.rand_augment > 0:
            images = (images / 255).clamp(0, 1)
            if recipe.colour > 0:
                images = self._turn_hue(self._colour(images))
            images = self._rand_augment(images) * 255
        return images.permute(0, 2, 3, 1)

    def _warp(self, images: torch.Tensor) -> torch.Tensor:
        """Crop, mirror and rotate float32 [B, 3, S, S] by one matrix; what lies outside the photo is its reflection."""
        count, size, recipe = len(images), self._size, self._recipe
        area = torch.empty(count).uniform_(recipe.crop, 1)
        aspect = torch.empty(count).uniform_(-math.log(4 / 3), math.log(4 / 3)).exp() if recipe.crop < 1 else 1.0
        kept = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)  # width, height
        offset = torch.empty(count, 2).uniform_(-size / 2, size / 2) * (1 - kept)  # of the crop's centre
        angle = torch.empty(count).uniform_(-recipe.rotate, recipe.rotate)
        zoom = 1 / kept
        if recipe.flip:
            zoom[:, 0] = torch.where(_mirror(count), -zoom[:, 0], zoom[:, 0])
        centre = torch.full((count, 2), (size - 1) / 2)
        matrix = get_affine_matrix2d(-offset, centre + offset, zoom, angle)[:, :2].to(self._device)
        warped: torch.Tensor = warp_affine(images, matrix, (size, size), padding_mode="reflection", align_corners=False)
        return warped.clamp_(0, 255)

    def _turn_hue(self, images: torch.Tensor) -> torch.Tensor:
        """Turn the colours of float32 [B, 3, S, S] (0..1) in the UV plane: one matrix, far cheaper than HSV."""
        angle = torch.empty(len(images)).uniform_(-1, 1) * (2 * math.pi * HUE * self._recipe.colour)
        turn = torch.eye(3).repeat(len(images), 1, 1)
        turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
        turn[:, 2, 1] = angle.sin()
        turn[:, 1, 2] = -turn[:, 2, 1]
        matrix = (torch.linalg.inv(self._to_yuv) @ turn @ self._to_yuv).to(self._device)
        turned: torch.Tensor = matrix @ images.flatten(2)
        return turned.view(images.shape).clamp_(0, 1)

    def _rand_augment(self, images: torch.Tensor) -> torch.Tensor:
        """RandAugment of float32 [B, 3, S, S] (0..1), each photo by operations of its own.

        kornia's own `RandAugment` draws the operations once a batch (`rand_selector`); here it makes one operation at
        a time, on the photos that drew it.
        """
        for _ in range(self._recipe.rand_augment):
            drawn = torch.randint(len(self._operations), (len(images),))
            for index in sorted(set(drawn.tolist())):
                chosen = (drawn == index).nonzero()[:, 0].to(self._device)
                images[chosen] = self._operations[index](images[chosen]).clamp(0, 1)
        return images


def _operations(magnitude: int) -> list[RandAugment]:
    m = min(magnitude, 29)  # kornia takes 1 to 29
    return [RandAugment(1, m, [[entry]], "skip") for entry in RISING] + [
        RandAugment(1, 30 - m, [[entry]], "skip") for entry in FALLING
    ]


def _mirror(count: int) -> torch.Tensor:
    return torch.rand(count) < 0.5


def mixup(labels: torch.Tensor, classes: int, alpha: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whom each photo is mixed with, how much of its own stays, and what it is then: mixup, arXiv:1710.09412.

    `labels` int64 [B] → partner int64 [B], a permutation; share float32 [B] from Beta(alpha, alpha), folded to
    0.5..1 so that the larger part is the own photo's; targets float32 [B, classes], rows that sum to 1. `alpha` 0:
    every photo stays as it is, and nothing is drawn. All are on the device of `labels`.
    """
    count, device = len(labels), labels.device
    if alpha == 0:
        partner, share = torch.arange(count, device=device), torch.ones(count, device=device)
    else:
        partner = torch.randperm(count).to(device)
        share = torch.distributions.Beta(alpha, alpha).sample((count,))
        share = torch.maximum(share, 1 - share).to(device)
    own = F.one_hot(labels, classes).float()
    return partner, share, blend(own, partner, share) if alpha else own


def blend(tensor: torch.Tensor, partner: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """`share` of each row and the rest of its partner's: pixels or image embeddings [B, …], of any floating dtype."""
    weight = share.to(tensor.dtype).view(-1, *[1] * (tensor.ndim - 1))
    return torch.lerp(tensor[partner], tensor, weight)
