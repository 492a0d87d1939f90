"""Base class of finished networks that come whole in a file."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from gankd.errors import ModelError

LARGEST_BATCH = 256


class NetworkFile(nn.Module):
    """A finished network, from images (N, C, H, W) to its first output. It is never trained, and stays in the mode in
    which it was stored. One for batches of a fixed size gets such batches; the last is filled up.

    Subclasses give `_outputs`.

    Args:
        path: the file.
        more: further files that it consists of.
    """

    shape: tuple[int | None, ...] = (None, None, None, None)
    """(N, C, H, W) of the images, None where the file takes any."""

    def __init__(self, path: Path, *more: Path) -> None:
        super().__init__()
        self.path = path
        digest = hashlib.blake2b(digest_size=16)
        for part in (path, *more):
            with part.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        self._digest = digest.hexdigest()
        self.only_outputs = (
            f"{path.name} is a finished network in a file: only its outputs can be read, no feature maps and no "
            "embedding; choose losses of outputs (KD, DKD, DIST ...)"
        )

    def extra_repr(self) -> str:
        return self._digest  # part of a teacher's identity

    def train(self, mode: bool = True) -> "NetworkFile":
        self.training = mode  # not its parts: exported programs refuse to change
        return self

    @property
    def image_sides(self) -> tuple[int | None, int | None]:
        """(H, W) of the images where the file fixes them."""
        return self.shape[2], self.shape[3]

    def forward(self, x: Tensor) -> Tensor:
        batch = self.shape[0] or LARGEST_BATCH
        return torch.cat([self._batch(part) for part in x.split(batch)])

    def _batch(self, x: Tensor) -> Tensor:
        count = len(x)
        if self.shape[0] is not None and count < self.shape[0]:
            x = torch.cat([x, x[-1:].expand(self.shape[0] - count, -1, -1, -1)])
        try:
            given = self._outputs(x)
        except ModelError:
            raise
        except Exception as error:  # whatever the file makes of these images
            raise ModelError(f"{self.path} fails on images {tuple(x.shape)}: {one_line(error)}") from None
        if given.ndim == 0 or len(given) != len(x):
            raise ModelError(f"{self.path} gives {tuple(given.shape)} for {len(x)} images; expected one row per image")
        return given[:count]

    def _outputs(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def one_line(error: Exception) -> str:
    """The beginning of an error's text, in one line."""
    return " ".join(str(error).split())[:200]
