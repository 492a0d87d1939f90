"""Distillation losses, one file each: what the student learns from the teacher besides, or in place of, its outputs.

`gankd list losses` prints them; `gankd.training.objective` adds them up.
"""

from gankd.losses.distillation.spec import Loss, loss

__all__ = ["Loss", "loss"]
