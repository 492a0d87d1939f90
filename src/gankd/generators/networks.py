"""Base class of trained generators, and the small pair of networks for 8 to 256 pixels: residual convolutions, with
conditional batch normalisation in the generator and label projection (Miyato and Koyama, ICLR 2018) in the
discriminator.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gankd.batches import in_batches
from gankd.config import require
from gankd.generators.label_embedding import LabelInput, LabelToEmbedding, make_embedding
from gankd.tasks import Task


def start_side(size: int) -> int:
    """Side of the coarsest feature map: halve `size` until it is 4 to 7.

    Raises:
        ConfigError: `size` cannot be halved that far.
    """
    side = size
    while side > 7 and side % 2 == 0:
        side //= 2
    require(
        4 <= side <= 7 and size <= 256,
        f"generators make images of 8 to 256 pixels, a power of two times 4 to 7 (8, 28, 32, 64, 128, 224 ...), not "
        f"of {size}: set data.size to one of these, and teacher.input_size={size} or student.input_size={size} for "
        "networks that read that size",
    )
    return side


def start_sides(height: int, width: int) -> tuple[int, int]:
    """Height and width of the coarsest feature map, by as many halvings as the shorter side takes (`start_side`).

    Raises:
        ConfigError: the sides cannot be halved that far.
    """
    short, long = min(height, width), max(height, width)
    halvings = short // start_side(short)
    require(
        long % halvings == 0 and long <= 256,
        f"generators make images of {height}x{width} pixels by {halvings.bit_length() - 1} doublings, so the longer "
        f"side must be a multiple of {halvings} of at most 256: set data.size to another height and width",
    )
    return height // halvings, width // halvings


def _scales(height: int, width: int) -> int:
    return int(math.log2(height // start_sides(height, width)[0]))


class ConditionalNorm(nn.Module):
    """norm(x) (1 + gamma(e)) + beta(e) per channel; without batch normalisation, norm is the identity."""

    def __init__(self, channels: int, embedding_width: int, batch_norm: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False) if batch_norm else nn.Identity()
        self.affine = nn.Linear(embedding_width, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.02)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round labels to 1 part in 256
            gamma, beta = self.affine(embedded.float())[:, :, None, None].chunk(2, 1)
        return self.norm(x) * (1 + gamma) + beta


class UpBlock(nn.Module):
    """norm-ReLU-upsample-conv, norm-ReLU-conv, and an upsampled 1x1 shortcut."""

    def __init__(
        self, in_channels: int, channels: int, norm: Callable[[int], nn.Module], spectral: bool = False
    ) -> None:
        super().__init__()
        wrap = wrapper(spectral)
        self.norm1 = norm(in_channels)
        self.conv1 = wrap(nn.Conv2d(in_channels, channels, 3, padding=1))
        self.norm2 = norm(channels)
        self.conv2 = wrap(nn.Conv2d(channels, channels, 3, padding=1))
        self.shortcut = wrap(nn.Conv2d(in_channels, channels, 1))

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        out = F.interpolate(F.relu(self.norm1(x, embedded)), scale_factor=2, mode="nearest")
        out = self.conv2(F.relu(self.norm2(self.conv1(out), embedded)))
        # A 1x1 convolution and nearest upsampling commute; this order is four times cheaper.
        return out + F.interpolate(self.shortcut(x), scale_factor=2, mode="nearest")


class LatentGenerator(nn.Module):
    """(z, labels) to images in [-1, 1], with z (N, z_dim) standard normal; subclasses give `forward`."""

    task: Task
    z_dim: int

    @property
    def device(self) -> torch.device:
        """Device of the weights; the CPU without weights."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @torch.no_grad()
    def sample(self, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """uint8 images (N, C, H, W) for labels (N,), mixed at will; rounded, not truncated.

        `generator` lives on the CPU, so that the latents are the same on every device.
        """
        z = torch.randn(len(labels), self.z_dim, generator=generator).to(self.device)
        was_training = self.training
        images = self.eval()._images(z, labels.to(self.device))
        self.train(was_training)
        return images

    @torch.no_grad()
    def sweep(self, labels: Tensor, rows: int, *, generator: torch.Generator) -> Tensor:
        """uint8 images (rows, N, C, H, W): one latent per row, labels (N,) along it."""
        z = torch.randn(rows, self.z_dim, generator=generator).to(self.device).repeat_interleave(len(labels), 0)
        images = self.eval()._images(z, labels.to(self.device).repeat(rows))
        return images.view(rows, len(labels), *images.shape[1:])

    def _images(self, z: Tensor, labels: Tensor) -> Tensor:
        # No caller adds autocast: under bfloat16, pixels of a trained generator were up to 5 of 255 off.
        return torch.cat(in_batches(lambda part: to_uint8(self(z[part], labels[part])), len(z), z.device))


class ConditionalGenerator(LatentGenerator):
    """The small generator.

    Args:
        task: owns the labels.
        shape: (C, H, W) of the images.
        width: channels at full resolution; doubled towards the coarse end, up to four times.
        z_dim: size of the latent.
        label_input, embedding_width, ili: see `label_embedding`.
        batch_norm: conditional batch normalisation, or only conditional scale and shift.
    """

    def __init__(
        self,
        task: Task,
        shape: tuple[int, int, int],
        *,
        width: int,
        z_dim: int,
        label_input: LabelInput,
        embedding_width: int,
        batch_norm: bool,
        ili: LabelToEmbedding | None = None,
    ) -> None:
        super().__init__()
        channels, *high_and_wide = shape
        self.task, self.z_dim, self.start = task, z_dim, start_sides(*high_and_wide)
        self.embedding = make_embedding(task, label_input, embedding_width, ili)
        norm = partial(ConditionalNorm, embedding_width=self.embedding.width + z_dim, batch_norm=batch_norm)
        widths = [width * min(2**n, 4) for n in reversed(range(_scales(*high_and_wide) + 1))]
        self.input = nn.Linear(z_dim, widths[0] * math.prod(self.start))
        self.blocks = nn.ModuleList(UpBlock(a, b, norm) for a, b in pairwise(widths))
        self.norm = nn.BatchNorm2d(widths[-1]) if batch_norm else nn.Identity()
        self.output = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        # The latent joins the label at every scale, so that detail does not depend only on the first layer.
        with torch.autocast(z.device.type, enabled=False):
            embedded = torch.cat([self.embedding(labels), z], 1)
        x = self.input(z).view(len(z), -1, *self.start)
        for block in self.blocks:
            x = block(x, embedded)
        return torch.tanh(self.output(F.relu(self.norm(x))))


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to 0..255, to the nearest level."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """0..255 to [-1, 1]."""
    return images.float() / 127.5 - 1


class DownBlock(nn.Module):
    """Two 3x3 convolutions after (leaky) ReLUs, mean-pooled, with a 1x1 or an identity shortcut."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        down: bool,
        first: bool,
        spectral: bool,
        slope: float = 0.2,
        identical: bool = False,
    ) -> None:
        super().__init__()
        wrap = wrapper(spectral)
        self.down, self.first, self.slope = down, first, slope
        self.conv1 = wrap(nn.Conv2d(in_channels, channels, 3, padding=1))
        self.conv2 = wrap(nn.Conv2d(channels, channels, 3, padding=1))
        self.shortcut = nn.Identity() if identical else wrap(nn.Conv2d(in_channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x if self.first else F.leaky_relu(x, self.slope))
        out = self.conv2(F.leaky_relu(out, self.slope))
        if self.down:
            out, x = F.avg_pool2d(out, 2), F.avg_pool2d(x, 2)
        return out + self.shortcut(x)


def wrapper(spectral: bool) -> Callable[[nn.Module], nn.Module]:
    """Function to wrap layers in: spectral normalisation (Miyato et al., ICLR 2018), or the identity."""
    return _normalised if spectral else _as_it_is


def _normalised(module: nn.Module) -> nn.Module:
    # Without values (to count parameters or operations) there is no norm, and looking for it takes a minute.
    bare = next(module.parameters()).untyped_storage().device.type == "meta"  # of fake tensors as well
    return module if bare else spectral_norm(module)


def _as_it_is(module: nn.Module) -> nn.Module:
    return module


class ProjectionDiscriminator(nn.Module):
    """(images in [-1, 1], labels) to scores (N,): psi(h) + <h, e(label)>, h summed over the coarsest map."""

    def __init__(
        self,
        task: Task,
        shape: tuple[int, int, int],
        *,
        width: int,
        label_input: LabelInput,
        embedding_width: int,
        spectral: bool,
        ili: LabelToEmbedding | None = None,
    ) -> None:
        super().__init__()
        channels, *high_and_wide = shape
        wrap = wrapper(spectral)
        self.embedding = make_embedding(task, label_input, embedding_width, ili)
        scales = _scales(*high_and_wide)
        blocks: list[nn.Module] = []
        for number in range(scales + 1):
            out = width * min(2**number, 4)
            blocks.append(DownBlock(channels, out, down=number < scales, first=number == 0, spectral=spectral))
            channels = out
        self.blocks = nn.Sequential(*blocks)
        self.score = wrap(nn.Linear(channels, 1))
        self.project = wrap(nn.Linear(self.embedding.width, channels, bias=False))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = F.leaky_relu(self.blocks(images), 0.2).sum((2, 3)).float()
        with torch.autocast(images.device.type, enabled=False):
            projected = self.project(self.embedding(labels))
        # The sum over 16 or more places is scaled back, or scores start far outside the hinge's margins.
        features = features / features.shape[1] ** 0.5
        return self.score(features)[:, 0] + (features * projected).sum(1)


RESIDUAL = (ConditionalGenerator, ProjectionDiscriminator)
"""The small pair, for `gankd.generators.architectures`."""
