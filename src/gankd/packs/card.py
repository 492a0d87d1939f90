"""The card of a pack: plain data on its origin, its audit and its controls."""

from collections.abc import Mapping
from dataclasses import dataclass

from gankd.bench.stats import mean_stderr


@dataclass(frozen=True, kw_only=True)
class Auc:
    """Area under the curve of a test with its 95 % interval: 0.5 is guessing, 1 is certainty."""

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The chance to be right, in words."""
        return f"{100 * self.value:.0f} times in 100 [{100 * self.low:.0f} to {100 * self.high:.0f}]"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Results of the two tests for training images that a pack gives away."""

    generated: int
    copies_of_train: float
    """Generated images that copy a training image, in per cent (`generators.copies`)."""
    copies_of_test: float
    """Share that chance gives: copies of test images, which the generator never saw, in per cent."""
    members: int
    """Training images whose membership was guessed."""
    others: int
    """Validation and test images whose membership was guessed."""
    references: int
    """Further validation and test images, for the density."""
    distance: Auc
    density: Auc

    @property
    def leaks(self) -> bool:
        """True if a test does better than guessing, beyond its 95 % interval."""
        return max(self.distance.low, self.density.low) > 0.5

    @property
    def sentences(self) -> tuple[str, ...]:
        """The audit in plain words."""
        tells = (
            "So the pack gives away, to this degree, which images it was made from."
            if self.leaks
            else "So neither test finds out which images it was made from."
        )
        return (
            f"{self.copies_of_train:.1f} % of {self.generated:,} generated images copy a training image: they are at "
            "least three times nearer to it than to any other. With test images, which the generator never saw, chance "
            f"gives {self.copies_of_test:.1f} %.",
            "Somebody who holds the pack is shown two real images, one of which it was made from. To pick the one that "
            f"is nearer to a generated image is right {self.distance.text}; to pick by the density ratio, "
            f"{self.density.text}; to guess, 50 times. Tried on {self.members:,} training images and {self.others:,} "
            "others.",
            f"{tells} A better test may find more: this is a measurement, and differential privacy is not promised.",
        )


@dataclass(frozen=True, kw_only=True)
class Control:
    """One way to train a student, and what it reached on real test images."""

    name: str
    title: str
    images: int
    values: tuple[float, ...]
    """The task's metric of each seed."""

    @property
    def summary(self) -> tuple[float, float]:
        """Mean over seeds and its standard error."""
        return mean_stderr(self.values)


@dataclass(frozen=True, kw_only=True)
class Card:
    """Origin of a pack, and what was measured where the real images and the teacher are."""

    version: str
    recipe: str
    data: Mapping[str, str]
    """Card of the data set: name, origin, licence, split."""
    images: Mapping[str, int]
    """Real images of each split."""
    teacher: str
    """Name of the network."""
    teacher_val: Mapping[str, float]
    """Its metrics on validation images."""
    audit: Audit | None = None
    controls: tuple[Control, ...] = ()
