"""Label-keeping changes of real images, one draw per image, in one batched call on the device."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.data.trivial_augment import change_one_thing
from gankd.data.windows import crop, erase

Augmentation = Literal[
    "shift", "rotate", "scale", "flip", "colour", "crop", "erase", "trivial", "translation", "color", "teacher"
]
"""Kinds of change. translation and color are other names of shift and colour; teacher stands for the teacher's kinds,
in settings of students."""
SYNONYMS = (("shift", "translation"), ("colour", "color"))
"""Names of one kind: settings take either; this file and DiffAugment each store the one they know."""


def known_as(kinds: Sequence[str], known: Collection[str]) -> tuple[Any, ...]:
    """`kinds`, each once and under the synonym that is in `known`; other names stay as they are."""
    other = {name: pair[1 - place] for pair in SYNONYMS for place, name in enumerate(pair)}
    return tuple(dict.fromkeys(kind if kind in known else other.get(kind, kind) for kind in kinds))


def with_teachers(kinds: Sequence[Augmentation], teachers: Sequence[Augmentation]) -> tuple[Augmentation, ...]:
    """`kinds`, each once, with the kinds of the teacher in the place of `teacher`."""
    return tuple(dict.fromkeys(each for kind in kinds for each in (teachers if kind == "teacher" else [kind])))


# --- drawing

Uniform = Callable[[float, float], Tensor]
"""(low, high) to one random number per image, (N,)."""


def _mirror(uniform: Uniform) -> Tensor:
    return torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)


DRAWS: dict[str, dict[str, Callable[[Uniform], Tensor]]] = {
    "rotate": {"angle": lambda uniform: uniform(-math.pi / 12, math.pi / 12)},
    "scale": {"scale": lambda uniform: torch.exp(uniform(-0.14, 0.14))},
    "flip": {"mirror": _mirror},
    # A quarter of the grid's range [-1, 1] is an eighth of the side.
    "shift": {"shift_x": lambda uniform: uniform(-0.25, 0.25), "shift_y": lambda uniform: uniform(-0.25, 0.25)},
    "colour": {"contrast": lambda uniform: uniform(0.75, 1.25), "brightness": lambda uniform: uniform(-0.15, 0.15)},
    "crop": {"crop_x": lambda uniform: uniform(0, 1), "crop_y": lambda uniform: uniform(0, 1)},
    "trivial": {"change": lambda uniform: uniform(0, 1), "strength": lambda uniform: uniform(-1, 1)},
    # Settings of random erasing as published: probability, area and aspect ratio of the box.
    "erase": {
        "erased": lambda uniform: (uniform(0, 1) < 0.5).float(),
        "erase_area": lambda uniform: uniform(0.02, 0.4),
        "erase_aspect": lambda uniform: torch.exp(uniform(math.log(0.3), -math.log(0.3))),
        "erase_x": lambda uniform: uniform(0, 1),
        "erase_y": lambda uniform: uniform(0, 1),
    },
}
"""Kind to its named numbers, in the order in which they are drawn. A new kind goes last, and into `apply_views`."""
NO_CHANGE = {
    "angle": 0.0,
    "scale": 1.0,
    "mirror": 1.0,
    "shift_x": 0.0,
    "shift_y": 0.0,
    "contrast": 1.0,
    "brightness": 0.0,
}
"""Numbers that stand for kinds that were not asked for, in geometry and in `Views.key`. New kinds need none."""


@dataclass(frozen=True)
class Views:
    """Named random numbers that say how images are changed: (N,), or (K, N) for K views of each image.

    A kind that is not in use has no numbers.
    """

    numbers: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.numbers.values())))

    def __getitem__(self, index: Any) -> "Views":
        return self._each(lambda values: values[index])

    def to(self, device: torch.device | str) -> "Views":
        """These views on another device."""
        return self._each(lambda values: values.to(device))

    def split(self, size: int) -> list["Views"]:
        """Parts of at most `size` images, of one view each."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    @staticmethod
    def cat(parts: Sequence["Views"]) -> "Views":
        """Views of images one after the other."""
        return parts[0]._with(parts, torch.cat)

    @staticmethod
    def stack(parts: Sequence["Views"]) -> "Views":
        """K views (N,) of the same images, as (K, N)."""
        return parts[0]._with(parts, torch.stack)

    def get(self, name: str) -> Tensor:
        """The numbers of this name, or those that change nothing."""
        if name in self.numbers:
            return self.numbers[name]
        return torch.full_like(next(iter(self.numbers.values())), NO_CHANGE[name])

    def key(self) -> list[Tensor]:
        """Tensors that identify these views in the key of a stored result.

        Keys of stored results are older than the names: the first seven numbers are one tensor (..., N, 7), whichever
        of them are in use. Numbers of other kinds follow where they are in use, so a new kind changes no other's key.
        """
        others = [values for name, values in self.numbers.items() if name not in NO_CHANGE]
        return [torch.stack([self.get(name) for name in NO_CHANGE], -1), *others]

    def _each(self, function: Callable[[Tensor], Tensor]) -> "Views":
        return Views({name: function(values) for name, values in self.numbers.items()})

    def _with(self, parts: Sequence["Views"], join: Callable[[list[Tensor]], Tensor]) -> "Views":
        return Views({name: join([part.numbers[name] for part in parts]) for name in self.numbers})


def draw_views(
    count: int, kinds: tuple[Augmentation, ...], generator: torch.Generator, device: torch.device | str = "cpu"
) -> Views:
    """Draw how `count` images are changed.

    shift: up to an eighth of the side each way; rotate: up to 15 degrees; scale: 0.87 to 1.15;
    flip: left-right, every second image; colour: brightness +-0.15 and contrast 0.75 to 1.25;
    crop: whole pixels, up to an eighth of the side each way, with zeros beyond the border (RandomCrop with padding 4
    at 32 pixels); erase: every second image loses a box of 2 to 40 % of its area [1];
    trivial: one of `trivial_augment.CHANGES` at a random strength [2].

    [1] Zhong, Zheng, Kang, Li, Yang. Random erasing data augmentation. AAAI 2020, algorithm 1.
    [2] Mueller, Hutter. TrivialAugment: tuning-free yet state-of-the-art data augmentation. ICCV 2021.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, device=device, generator=generator) * (high - low) + low

    wanted = known_as(kinds, DRAWS)
    drawn = [draw for kind, draw in DRAWS.items() if kind in wanted]
    return Views({name: number(uniform) for draw in drawn for name, number in draw.items()})


# --- changing


def apply_views(images: Tensor, views: Views) -> Tensor:
    """Change images (N, C, H, W) in [0, 1] (or uint8) as drawn; returns float32 in [0, 1]."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    if views.numbers.keys() & {"angle", "scale", "mirror", "shift_x"}:
        # --- rotate, scale, flip and shift: one affine map (N, 2, 3), one resampling
        angle, scale, mirror = (views.get(name) for name in ("angle", "scale", "mirror"))
        cos, sin = scale * angle.cos(), scale * angle.sin()
        wide = images.shape[3] / images.shape[2]  # the grid is 2 x 2: in it a turn of pixels is not a turn
        to_x = torch.stack([mirror * cos, -sin / wide, views.get("shift_x")], 1)
        to_y = torch.stack([mirror * sin * wide, cos, views.get("shift_y")], 1)
        grid = F.affine_grid(torch.stack([to_x, to_y], 1), list(images.shape), align_corners=False)  # (N, H, W, 2)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if "contrast" in views.numbers:
        # --- colour: contrast around the image's mean, then brightness
        contrast, mean = views.get("contrast"), images.mean((1, 2, 3))
        offset = mean * (1 - contrast) + views.get("brightness")
        images = (images * contrast[:, None, None, None] + offset[:, None, None, None]).clamp(0, 1)
    if "change" in views.numbers:
        images = change_one_thing(images, views.numbers["change"], views.numbers["strength"])
    if "crop_x" in views.numbers:
        images = crop(images, views.numbers["crop_x"], views.numbers["crop_y"])
    if "erased" in views.numbers:
        images = erase(images, views.numbers)
    return images


def augment(images: Tensor, kinds: tuple[Augmentation, ...], generator: torch.Generator) -> Tensor:
    """Augment images (N, C, H, W) in [0, 1] (or uint8) by fresh draws; returns float32 in [0, 1]."""
    return apply_views(images, draw_views(len(images), kinds, generator, images.device))
