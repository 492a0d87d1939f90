"""Distillation losses, one file each.

`gankd list losses` prints them; `gankd.training.objective` adds them up.
"""

from gankd.losses.distillation.spec import Loss, LossModule, loss

__all__ = ["Loss", "LossModule", "loss"]
