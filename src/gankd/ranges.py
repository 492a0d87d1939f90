"""Types of settings that are numbers, with their ranges; `config.check_ranges` and `config.from_dict` enforce them."""

from typing import Annotated

from pydantic import Field

MOST = 10**9
"""Largest count of a setting; more is a slip of the pen."""

Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST)]
CountFromTwo = Annotated[int, Field(ge=2, le=MOST)]
Width = Annotated[int, Field(ge=1, le=8192)]
"""Channels or features of a layer: the memory of a network grows with their square."""
Side = Annotated[int, Field(ge=1, le=4096)]
"""Side of images in pixels."""
Few = Annotated[int, Field(ge=1, le=1024)]
"""Count of things that are kept in memory at the same time, such as networks or views of every image."""
Bins = Annotated[int, Field(ge=2, le=8192)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]

AboveZero = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[float, Field(ge=1, lt=float("inf"))]
AtLeastZero = Annotated[float, Field(ge=0)]
ZeroToOne = Annotated[float, Field(ge=0, le=1)]
UpToOne = Annotated[float, Field(gt=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Within = Annotated[float, Field(gt=0, lt=1)]
"""Strictly between 0 and 1."""
UpToTen = Annotated[float, Field(gt=0, le=10)]
Temperature = Annotated[float, Field(ge=0.01, le=100)]
