"""Published conditional GANs at their published widths: BigGAN, BigGAN-deep, SAGAN and SNGAN, for classes and for
continuous labels. They differ in a few facts, which `Plan` holds, so they share one generator and one discriminator.

Brock, Donahue, Simonyan. Large scale GAN training for high fidelity natural image synthesis. ICLR 2019 (appendix
B; the networks for 32 pixels are those of the first author's PyTorch version).
Zhang, Goodfellow, Metaxas, Odena. Self-attention generative adversarial networks. ICML 2019; SNGAN: Miyato et al.,
ICLR 2018; both as Ding et al. use them for continuous labels (CcGAN, ICLR 2021).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from gankd.config import require
from gankd.generators.label_embedding import LabelInput, LabelToEmbedding, make_embedding
from gankd.generators.networks import DownBlock, LatentGenerator, UpBlock, start_side, wrapper
from gankd.tasks import Task

Published = Literal["biggan", "biggan-deep", "sngan", "sagan"]
Init = Literal["default", "normal", "orthogonal", "xavier"]


@dataclass(frozen=True)
class Plan:
    """Facts in which architectures differ, at one image size. Widths are in units of the base width."""

    generator: tuple[int, ...]
    """Channels of the start map, then after each doubling of the side."""
    discriminator: tuple[int, ...]
    """Channels after each block."""
    halvings: int
    """Number of these blocks, from the first, that halve the side."""
    attention: int | None
    """Side of the maps with self-attention, in both networks."""
    latent: Literal["start", "chunks", "all"] = "start"
    """Entry of z: before the start map; a chunk there and one in each block; or the whole latent in all of them."""
    deep: bool = False
    """Two bottleneck blocks for each block of the others."""
    stem: int = 0
    """Channels of the discriminator's first convolution; 0: it has none."""
    spectral: bool = True
    """Spectral normalisation in the generator too."""
    flat: bool = False
    """The discriminator judges the last maps as they are, not their sum over places."""
    vector_per_class: bool = False
    """Classes have a gain and a shift of their own in each normalisation, without a shared embedding."""


BIGGAN_PLANS = {
    32: Plan((4, 4, 4, 4), (4, 4, 4, 4), 2, None, vector_per_class=True),
    64: Plan((16, 16, 8, 4, 2), (1, 2, 4, 8, 16), 4, 32, "chunks"),
    128: Plan((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5, 64, "chunks"),
}
BIGGAN_DEEP_PLANS = {
    32: Plan((4, 4, 4, 4), (4, 4, 4), 2, None, "all", deep=True, stem=4),
    64: Plan((16, 16, 8, 4, 2), (2, 4, 8, 16), 4, 32, "all", deep=True, stem=1),
    128: Plan((16, 16, 8, 4, 2, 1), (2, 4, 8, 16, 16), 5, 64, "all", deep=True, stem=1),
}


def _side(architecture: Published, shape: tuple[int, int, int]) -> int:
    """Side of images; ConfigError unless they are square."""
    _, height, width = shape
    require(height == width, f"gan.architecture={architecture} makes square images, got {height}x{width}; use residual")
    return height


def plan_of(architecture: Published, size: int) -> Plan:
    """Networks of `architecture` for images of `size` pixels.

    Raises:
        ConfigError: it was never published for that size.
    """
    if architecture in ("biggan", "biggan-deep"):
        table = BIGGAN_PLANS if architecture == "biggan" else BIGGAN_DEEP_PLANS
        require(
            size in table,
            f"gan.architecture={architecture} makes images of 32, 64 or 128 pixels, got {size}; use residual",
        )
        return table[size]
    require(size >= 16, f"gan.architecture={architecture} makes images of 16 pixels or more, got {size}; use residual")
    halvings = (size // start_side(size)).bit_length() - 1
    widths = tuple(min(2**number, 16) for number in range(halvings + 1))
    sagan = architecture == "sagan"
    attention = min(size // 2, 32) if sagan else None
    return Plan(widths[::-1], widths, halvings, attention, spectral=sagan, flat=True)


class ConditionalBatchNorm(nn.Module):
    """batchnorm(x) (1 + gamma(e)) + beta(e) per channel, gamma and beta linear without bias."""

    def __init__(self, channels: int, width: int, spectral: bool) -> None:
        super().__init__()
        wrap = wrapper(spectral)
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gamma = wrap(nn.Linear(width, channels, bias=False))
        self.beta = wrap(nn.Linear(width, channels, bias=False))

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # as in ConditionalNorm
            gamma, beta = (layer(embedded.float())[:, :, None, None] for layer in (self.gamma, self.beta))
        return self.norm(x) * (1 + gamma) + beta


class SelfAttention(nn.Module):
    """x + gain o(softmax(theta(x)^T phi(x)) g(x)), with phi and g max-pooled by 2 (SAGAN, section 3).

    theta and phi have an eighth of the channels, g half of them; the gain is learned and starts at 0.
    """

    def __init__(self, channels: int, spectral: bool) -> None:
        super().__init__()
        wrap = wrapper(spectral)
        eighth, half = max(channels // 8, 1), max(channels // 2, 1)
        self.theta = wrap(nn.Conv2d(channels, eighth, 1, bias=False))
        self.phi = wrap(nn.Conv2d(channels, eighth, 1, bias=False))
        self.g = wrap(nn.Conv2d(channels, half, 1, bias=False))
        self.out = wrap(nn.Conv2d(half, channels, 1, bias=False))
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        queries = self.theta(x).flatten(2).transpose(1, 2)
        keys, values = (F.max_pool2d(layer(x), 2).flatten(2) for layer in (self.phi, self.g))
        found = torch.softmax(queries @ keys, 2) @ values.transpose(1, 2)  # (N, places, channels)
        return x + self.gain * self.out(found.transpose(1, 2).unflatten(2, x.shape[2:]))


class DeepUpBlock(nn.Module):
    """Bottleneck to a quarter: 1x1, twice 3x3, 1x1; the shortcut drops channels (BigGAN-deep)."""

    def __init__(
        self, in_channels: int, channels: int, norm: Callable[[int], nn.Module], spectral: bool, up: bool
    ) -> None:
        super().__init__()
        wrap, hidden = wrapper(spectral), max(in_channels // 4, 1)
        self.channels, self.up = channels, up
        self.norms = nn.ModuleList(norm(width) for width in (in_channels, hidden, hidden, hidden))
        self.convs = nn.ModuleList(
            (
                wrap(nn.Conv2d(in_channels, hidden, 1)),
                wrap(nn.Conv2d(hidden, hidden, 3, padding=1)),
                wrap(nn.Conv2d(hidden, hidden, 3, padding=1)),
                wrap(nn.Conv2d(hidden, channels, 1)),
            )
        )

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        out = x
        for number, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            out = F.relu(norm(out, embedded))
            out = conv(self._double(out) if number == 1 else out)
        return out + self._double(x[:, : self.channels])

    def _double(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.up else x


class DeepDownBlock(nn.Module):
    """Bottleneck to a quarter, each convolution after a ReLU; the shortcut gains channels by a 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int, *, down: bool, spectral: bool) -> None:
        super().__init__()
        wrap, hidden = wrapper(spectral), max(channels // 4, 1)
        self.down, self.widen = down, channels > in_channels
        self.conv1 = wrap(nn.Conv2d(in_channels, hidden, 1))
        self.conv2 = wrap(nn.Conv2d(hidden, hidden, 3, padding=1))
        self.conv3 = wrap(nn.Conv2d(hidden, hidden, 3, padding=1))
        self.conv4 = wrap(nn.Conv2d(hidden, channels, 1))
        if self.widen:
            self.more = wrap(nn.Conv2d(in_channels, channels - in_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(F.relu(x))))
        out = F.relu(self.conv3(F.relu(out)))
        if self.down:
            out, x = F.avg_pool2d(out, 2), F.avg_pool2d(x, 2)
        return self.conv4(out) + (torch.cat([x, self.more(x)], 1) if self.widen else x)


class PublishedGenerator(LatentGenerator):
    """The generator of a published architecture.

    Args:
        architecture: name of the architecture.
        task: owns the labels; continuous ones enter where an embedded class would.
        shape: (C, H, W) of the images.
        width: base width.
        z_dim: size of the latent, rounded down to equal chunks where it enters in chunks.
        label_input, embedding_width, ili: see `label_embedding`.

    Raises:
        ConfigError: there is no network of that size, or the latent has fewer numbers than chunks.
    """

    def __init__(
        self,
        architecture: Published,
        task: Task,
        shape: tuple[int, int, int],
        *,
        width: int,
        z_dim: int,
        label_input: LabelInput,
        embedding_width: int,
        ili: LabelToEmbedding | None = None,
    ) -> None:
        super().__init__()
        channels, size = shape[0], _side(architecture, shape)
        plan = plan_of(architecture, size)
        wrap = wrapper(plan.spectral)
        self.task, self.start, self.latent = task, start_side(size), plan.latent
        self.embedding = make_embedding(task, label_input, embedding_width, ili, one_hot=plan.vector_per_class)
        widths = [width * factor for factor in plan.generator]
        self.chunk = z_dim
        if plan.latent == "chunks":
            require(z_dim >= len(widths), f"gan.z_dim must be at least {len(widths)} here, got {z_dim}")
            self.chunk = z_dim // len(widths)
        self.z_dim = self.chunk * len(widths) if plan.latent == "chunks" else z_dim
        embedded = self.embedding.width + (0 if plan.latent == "start" else self.chunk)
        # Upstream normalises neither vectors per class nor, in SAGAN, gamma and beta.
        norm = partial(ConditionalBatchNorm, width=embedded, spectral=plan.latent != "start")
        self.input = wrap(nn.Linear(embedded if plan.latent == "all" else self.chunk, widths[0] * self.start**2))
        blocks: list[nn.Module] = []
        self.attention_after, side = -1, self.start
        for wide, narrow in pairwise(widths):
            if plan.deep:
                blocks.append(DeepUpBlock(wide, wide, norm, plan.spectral, up=False))
                blocks.append(DeepUpBlock(wide, narrow, norm, plan.spectral, up=True))
            else:
                blocks.append(UpBlock(wide, narrow, norm, plan.spectral))
            side *= 2
            if side == plan.attention:
                self.attention_after = len(blocks) - 1
                self.attention = SelfAttention(narrow, plan.spectral)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.output = wrap(nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            embedded = self.embedding(labels)
        first, *rest = z.split(self.chunk, 1)
        if self.latent == "all":
            embedded = first = torch.cat([z, embedded], 1)
        x = self.input(first).view(len(z), -1, self.start, self.start)
        for number, block in enumerate(self.blocks):
            x = block(x, torch.cat([embedded, rest[number]], 1) if self.latent == "chunks" else embedded)
            if number == self.attention_after:
                x = self.attention(x)
        return torch.tanh(self.output(F.relu(self.norm(x))))


class PublishedDiscriminator(nn.Module):
    """(images in [-1, 1], labels) to scores (N,): psi(h) + <h, V e(label)> (Miyato and Koyama, ICLR 2018).

    Args: see `PublishedGenerator`; spectral: normalise every layer but the label embedding.
    """

    def __init__(
        self,
        architecture: Published,
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
        channels, size = shape[0], _side(architecture, shape)
        plan, wrap = plan_of(architecture, size), wrapper(spectral)
        self.flat = plan.flat
        self.embedding = make_embedding(task, label_input, embedding_width, ili, one_hot=True)
        layers: list[nn.Module] = []
        if plan.stem:
            layers.append(wrap(nn.Conv2d(channels, width * plan.stem, 3, padding=1)))
            channels = width * plan.stem
        side = size
        for number, factor in enumerate(plan.discriminator):
            out, down = width * factor, number < plan.halvings
            if plan.deep:
                layers.append(DeepDownBlock(channels, out, down=down, spectral=spectral))
                layers.append(DeepDownBlock(out, out, down=False, spectral=spectral))
            else:
                identical = channels == out and not down
                layers.append(
                    DownBlock(
                        channels,
                        out,
                        down=down,
                        first=number == 0,
                        spectral=spectral,
                        slope=0.0,
                        identical=identical,
                    )
                )
            channels, side = out, side // 2 if down else side
            if down and side == plan.attention:
                layers.append(SelfAttention(channels, spectral))
        self.blocks = nn.Sequential(*layers)
        features = channels * side**2 if plan.flat else channels
        self.score = wrap(nn.Linear(features, 1))
        self.project = wrap(nn.Linear(self.embedding.width, features, bias=False))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        maps = F.relu(self.blocks(images)).float()
        features = maps.flatten(1) if self.flat else maps.sum((2, 3))
        with torch.autocast(images.device.type, enabled=False):
            projected = self.project(self.embedding(labels))
            return self.score(features)[:, 0] + (features * projected).sum(1)


BIGGAN, BIGGAN_DEEP, SNGAN, SAGAN = (
    (partial(PublishedGenerator, name), partial(PublishedDiscriminator, name)) for name in get_args(Published)
)
"""Generator and discriminator of each architecture, for `gankd.generators.architectures`."""


def initialise(net: nn.Module, how: Init) -> None:
    """Draw new weights of all convolutions, linear layers and class vectors, and set their biases to 0.

    normal: N(0, 0.02^2); orthogonal: Saxe et al. 2014, of the matrix with one row per output; xavier: uniform, Glorot
    and Bengio 2010. Frozen layers stay as they are; "default" changes nothing.
    """
    if how == "default":
        return
    draws: dict[str, Callable[[Tensor], Tensor]] = {
        "normal": partial(nn.init.normal_, std=0.02),
        "orthogonal": nn.init.orthogonal_,
        "xavier": nn.init.xavier_uniform_,
    }
    for layer in _layers(net):
        spectral = parametrize.is_parametrized(layer, "weight")
        if spectral:  # its singular vectors belong to the old weights
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        draws[how](layer.weight)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
        if spectral:
            spectral_norm(layer)


def _layers(net: nn.Module) -> Iterable[nn.Conv2d | nn.Linear | nn.Embedding]:
    for module in list(net.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding) and all(
            p.requires_grad for p in module.parameters()
        ):
            yield module
