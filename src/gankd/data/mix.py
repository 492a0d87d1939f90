"""Mixing of each image of a batch, and of its label, with another image: mixup, CutMix, and C-Mixup for values."""

from typing import Literal

import torch
from torch import Tensor

from gankd.config import require
from gankd.data.windows import box
from gankd.tasks import Task

Mix = Literal["none", "mixup", "cutmix", "both"]
"""both: half of the images by mixup, the other half by CutMix."""


def check_mix(how: Mix, task: Task, where: str = "") -> None:
    """Raise ConfigError unless labels of this task can be mixed like this; `where` begins the setting's name."""
    require(
        how == "none" or how in task.mixes,
        f"{where}mix={how} is not for {task.kind}; choose one of {', '.join(('none', *task.mixes))}",
    )


def mix(
    images: Tensor, labels: Tensor, task: Task, how: Mix, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix every image with another one of its batch, and its label in the same proportion.

        x = w x_a + (1 - w) x_b,    y = lambda y_a + (1 - lambda) y_b,    lambda ~ Beta(alpha, alpha)

    mixup [1]: all pixels have weight w = lambda. CutMix [2]: w = 0 within a box of area 1 - lambda, up to whole
    pixels, and 1 elsewhere; lambda is then the mean of w. Boxes lie wholly within the image, where [2] cuts them at
    its border. Each image has numbers of its own. Partners of classes are any other image of the batch; those of values
    are the likelier the closer their labels are [3].

    Args:
        images: (N, C, H, W) in [0, 1] (or uint8).
        labels: (N,) values in user units, or (N, K) class probabilities.
        task: of the labels.
        how: not none.
        alpha: of the Beta distribution; 1 is uniform, smaller leaves most images nearly as they are.
        generator: on the device of the images.

    Returns:
        Images (N, C, H, W) float32 in [0, 1], and labels of the shape given.

    [1] Zhang, Cisse, Dauphin, Lopez-Paz. mixup: beyond empirical risk minimization. ICLR 2018.
    [2] Yun, Han, Oh, Chun, Choe, Yoo. CutMix. ICCV 2019.
    [3] Yao, Wang, Zhang, Zou, Finn. C-Mixup: improving generalization in regression. NeurIPS 2022, equation 6.
    """
    partner = draw_partners(task.closeness(labels), generator)
    share = draw_shares(len(images), alpha, generator)
    cut, x, y = torch.rand((3, len(images)), device=images.device, generator=generator)
    is_cut = {"mixup": cut < 0, "cutmix": cut >= 0, "both": cut < 0.5}[how]  # (N,)
    height, width = images.shape[2:]
    return mixed(images, labels, partner, pixel_weights(share, is_cut, (height, width), x, y))


def mixed(images: Tensor, labels: Tensor, partner: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Images and labels with the rows `partner` (N,), which have the weight 1 - `weights` (N, 1, H, W)."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    share = weights.mean((1, 2, 3))  # (N,)
    share = share[:, None] if labels.ndim == 2 else share
    return torch.lerp(images[partner], images, weights), torch.lerp(labels[partner], labels, share)


def pixel_weights(share: Tensor, is_cut: Tensor, size: tuple[int, int], x: Tensor, y: Tensor) -> Tensor:
    """(N, 1, H, W): `share` (N,) everywhere, or where `is_cut` (N,) 0 within a box and 1 elsewhere.

    `x` and `y` (N,) in [0, 1) choose among the places of the box.
    """
    side = (1 - share).sqrt()
    high, wide = ((length * side).round().long() for length in size)
    outside = ~box(size, high, wide, x, y)
    return torch.where(is_cut[:, None, None, None], outside.float(), share[:, None, None, None])


def draw_partners(closeness: Tensor, generator: torch.Generator) -> Tensor:
    """(N,) another row for each, in proportion to exp(`closeness`) (N, N)."""
    noise = torch.empty_like(closeness).exponential_(generator=generator)
    scores = closeness - noise.log()  # the largest of these is such a draw (Gumbel)
    return scores.fill_diagonal_(-torch.inf).argmax(1)


def draw_shares(count: int, alpha: float, generator: torch.Generator) -> Tensor:
    """(count,) from Beta(alpha, alpha), in float32."""
    # Gamma(a) is Gamma(a + 1) U^(1/a): as logarithms, so that a small alpha does not end in 0 / 0.
    shape = torch.full((2, count), alpha + 1, device=generator.device)
    uniform = 1 - torch.rand((2, count), device=generator.device, generator=generator)
    first, second = torch._standard_gamma(shape, generator=generator).log() + uniform.log() / alpha
    return (first - second).sigmoid()
