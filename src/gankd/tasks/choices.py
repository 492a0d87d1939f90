"""Choices that both tasks offer, in their own ways."""

from typing import Literal

Adjust = Literal["none", "argmax", "soft", "prediction"]
LabelSampling = Literal["balanced", "empirical", "uniform"]
