"""The digits at 16x16, turned by a known angle in [-60, 60] degrees: regression with an exact label."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.data.digits import CARD, read_digits, split_digits
from gankd.data.images import LabelledImages, Splits
from gankd.seeds import rng
from gankd.tasks import Regression

ANGLES = Regression(low=-60.0, high=60.0, unit="degrees")


def rotate(images: Tensor, angle_degrees: Tensor, size: int = 16) -> Tensor:
    """Turn uint8 images (N, 1, 8, 8) counter-clockwise and resample them, bilinear, to (N, 1, size, size)."""
    radians = angle_degrees.double().deg2rad().float()
    cos, sin = radians.cos(), radians.sin()
    # Corners would leave the frame when turned, so the digit is drawn at 1 / 1.25 of the frame's size.
    theta = 1.25 * torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    grid = F.affine_grid(F.pad(theta, (0, 1)), [len(images), 1, size, size], align_corners=False)
    turned = F.grid_sample(images.float(), grid, padding_mode="zeros", align_corners=False)
    return turned.round().clamp(0, 255).to(torch.uint8)


def load_rotated_digits() -> Splits:
    """`rotated-digits`: one fixed angle per digit; the split is that of `digits`, so no digit is in two splits."""
    images, classes = read_digits()
    angles = ANGLES.denormalise(torch.rand(len(images), generator=rng(0, "rotated-digits", "angles")))
    whole = LabelledImages(rotate(images, angles), angles, ANGLES)
    train, val, test = (whole.subset(index) for index in split_digits(classes))
    card = CARD | {"origin": CARD["origin"] + ", turned by a known angle, one angle per digit"}
    return Splits(train, val, test, "rotated-digits", card)
