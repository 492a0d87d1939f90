"""Turned digits: a slow reference from the formula, the sense of rotation, and no digit in two splits."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gankd.data.digits import read_digits, split_digits
from gankd.data.rotated_digits import ANGLES, load_rotated_digits, rotate
from gankd.seeds import rng


def slow_rotate(image: Tensor, angle_degrees: float, size: int) -> np.ndarray:
    """Pixel by pixel: where in the source an output pixel comes from, and the four pixels around that place."""
    source = image.double().numpy()
    side = len(source)
    turned = np.zeros((size, size))
    cos, sin = math.cos(math.radians(angle_degrees)), math.sin(math.radians(angle_degrees))
    for row in range(size):
        for column in range(size):
            # centre of the pixel, right and up from the centre of the frame, which is 1.25 sources wide
            right = ((column + 0.5) / size - 0.5) * 1.25
            up = (0.5 - (row + 0.5) / size) * 1.25
            # turn back clockwise
            right, up = right * cos + up * sin, -right * sin + up * cos
            x, y = (right + 0.5) * side - 0.5, (0.5 - up) * side - 0.5
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < side and 0 <= j < side:
                        turned[row, column] += source[i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return turned


@pytest.mark.parametrize("angle", [0.0, 20.0, -37.5, 60.0, 90.0])
def test_against_a_slow_reference(angle: float) -> None:
    images = torch.randint(0, 256, (2, 1, 8, 8), generator=rng(0, "x")).to(torch.uint8)
    turned = rotate(images, torch.full((2,), angle))
    for image, found in zip(images, turned, strict=True):
        expected = slow_rotate(image[0], angle, 16)
        assert np.abs(found[0].numpy() - expected).max() <= 0.51  # rounded, not truncated


def test_a_quarter_turn_moves_the_foot_of_an_l_from_the_bottom_right_to_the_top_right() -> None:
    letter = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    letter[..., 1:7, 1:3] = 255  # an L: a stem on the left ...
    letter[..., 5:7, 1:7] = 255  # ... and a foot to the right
    upright, turned = rotate(letter.repeat(2, 1, 1, 1), torch.tensor([0.0, 90.0]))
    corners = {
        name: (part(upright), part(turned))
        for name, part in {
            "top left": lambda x: x[0, 2:6, 2:6].float().mean().item(),
            "top right": lambda x: x[0, 2:6, 10:14].float().mean().item(),
            "bottom left": lambda x: x[0, 10:14, 2:6].float().mean().item(),
            "bottom right": lambda x: x[0, 10:14, 10:14].float().mean().item(),
        }.items()
    }
    assert min(corners, key=lambda name: corners[name][0]) == "top right"  # the empty corner of an L
    assert min(corners, key=lambda name: corners[name][1]) == "top left"  # counter-clockwise, the next one
    torch.testing.assert_close(turned.float(), upright.rot90(1, (1, 2)).float(), atol=1.0, rtol=0)


def test_turning_there_and_back_is_a_mirror_image() -> None:
    images = torch.randint(0, 256, (4, 1, 8, 8), generator=rng(1, "x")).to(torch.uint8)
    angles = torch.tensor([10.0, 25.0, -40.0, 60.0])
    there, back = rotate(images, angles), rotate(images.flip(3), -angles).flip(3)
    assert (there.int() - back.int()).abs().max() <= 1


def test_the_angle_can_be_read_off_a_bar() -> None:
    bar = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    bar[..., 3:5, :] = 255  # along the horizontal
    angles = torch.tensor([-60.0, -30.0, -5.0, 0.0, 15.0, 45.0, 60.0])
    turned = rotate(bar.expand(len(angles), -1, -1, -1), angles)[:, 0].double()
    up, right = torch.meshgrid(7.5 - torch.arange(16.0), torch.arange(16.0) - 7.5, indexing="ij")
    moment = (turned * right * up).sum((1, 2)), (turned * (right.square() - up.square())).sum((1, 2))
    found = 0.5 * torch.atan2(2 * moment[0], moment[1]).rad2deg()  # main axis of the bar
    torch.testing.assert_close(found, angles.double(), atol=1.0, rtol=0)


def test_splits_are_those_of_the_digits() -> None:
    splits = load_rotated_digits()
    assert splits.task == ANGLES
    images, classes = read_digits()
    angles = torch.cat([splits.train.labels, splits.val.labels, splits.test.labels])
    assert len(angles.unique()) > 1790  # an angle of its own per digit: it tells where a digit went
    assert angles.abs().max() <= 60
    assert angles.mean().abs() < 3
    index = torch.cat(split_digits(classes))
    assert torch.equal(index.sort().values, torch.arange(1797))
    everything = torch.cat([splits.train.images, splits.val.images, splits.test.images])
    assert torch.equal(everything, rotate(images[index], angles))
    assert load_rotated_digits().fingerprint() == splits.fingerprint()
