"""Choices that both tasks offer, in their own ways."""

from typing import Literal

Adjust = Literal["none", "argmax", "soft", "prediction"]
LabelSampling = Literal["balanced", "empirical", "uniform"]
Scale = float | tuple[float, ...]
"""A number for all outputs of a network, or one for each."""
Stronger = Literal["trivial", "colour", "erase"]
"""Kinds of augmentation that a task may add to those of the teacher."""
