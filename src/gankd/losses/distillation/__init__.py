"""Distillation losses, one file each.

`gankd list losses` prints them; `gankd.training.objective` adds them up.
"""

from gankd.losses.distillation.spec import Loss, loss

__all__ = ["Loss", "loss"]
