"""Device, precision and memory layout of all computations, decided once."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from gankd.config import require
from gankd.errors import ConfigError
from gankd.parted import is_parted
from gankd.processes import count, own_gpu
from gankd.shards import Shards

M = TypeVar("M", bound=nn.Module)
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Engine:
    """Device, autocast type, memory format and division of batches, shared by every stage of a run."""

    device: torch.device
    bf16: bool
    channels_last: bool
    shards: Shards = field(default_factory=Shards)
    """Calls networks on batches in parts that processes share."""

    @classmethod
    def pick(
        cls, image_size: int, device: str = "auto", precision: Precision = "auto", shards: Shards | None = None
    ) -> "Engine":
        """Pick the fastest safe settings for images of `image_size` pixels on this machine.

        Below 16 pixels the networks are so small that casts and layout changes cost more than they save, so these
        stay in float32 with the default layout. Each of several processes takes a GPU of its own.

        Raises:
            ConfigError: this machine does not have the device, or fewer GPUs than processes.
        """
        name = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        apple = "; Apple's GPU is not used, as nobody has tried gankd on one" * name.startswith("mps")
        require(name.split(":")[0] in ("cpu", "cuda"), f"device must be auto, cpu or cuda, got {device!r}{apple}")
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device is {device!r}, but PyTorch finds no GPU here; use device=cpu")
        chosen = own_gpu(device) if name.startswith("cuda") and count() > 1 else torch.device(name)
        if chosen.type == "cuda":
            torch.backends.cudnn.deterministic = True  # a resumed stage must end like an uninterrupted one
            torch.backends.cudnn.allow_tf32 = False  # float32 means float32; bfloat16 brings the speed
        if precision == "auto":
            bf16 = image_size >= 16 and cls._has_bf16(chosen)
        else:
            bf16 = precision == "bf16"
        return cls(chosen, bf16, image_size >= 16, shards or Shards())

    @staticmethod
    def _has_bf16(device: torch.device) -> bool:
        if device.type == "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cpu._is_avx512_bf16_supported()

    @property
    def identity(self) -> dict[str, Any]:
        """Numerics that weights depend on, as plain data: without the shards of batches that are not split."""
        return {"bf16": self.bf16} | ({"shards": self.shards.count} if self.shards.count > 1 else {})

    def autocast(self) -> AbstractContextManager[object]:
        """Context with bfloat16 autocast if this engine uses it; losses cast back to float32 themselves."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def at_a_time(self, workers: int) -> int:
        """Number of students that `workers` processes train at a time: 1 on a GPU, which is not shared, and 1 where
        processes share its batches.
        """
        return max(1, workers) if self.device.type == "cpu" and count() == 1 else 1

    def place(self, module: M) -> M:
        """Move a module to the device, in this engine's memory format."""
        module.to(self.device)
        if self.channels_last and not is_parted(module):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module
