"""Declaration of the stages that a comparison needs: `plan` shows them and `cgan_kd` runs them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gankd.recipes.arms import Arm
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import gan_stage, ratio_stage, synth_stage
from gankd.recipes.students import Inputs, assistant_stages, lesson_stage, student_stage
from gankd.recipes.teacher import teacher_stage
from gankd.recipes.unlabelled import unlabelled_stage
from gankd.recipes.virtual import given_fingerprint, virtual_stage
from gankd.runs import Stage

Cell = tuple[str, int]
"""One student: (name of its arm, seed)."""


@dataclass(frozen=True)
class Generated:
    """Stages that make generated images."""

    gan: Stage
    ratio: Stage
    synth: Stage


@dataclass(frozen=True)
class Stages:
    """Identity and state of every stage that some students depend on; nothing is computed."""

    teacher: Stage
    """The run's own teacher; `shared` tells whether an arm needs it."""
    virtual: Stage | None
    """None: no loss reads a virtual teacher of this run."""
    generated: Generated | None
    """None: no arm sees generated images."""
    unlabelled: Stage | None
    """Images without labels as the teacher labels them; None: no arm sees any."""
    lessons: dict[str, Stage]
    """Teacher whose outputs the losses of an arm read, by arm."""
    assistants: dict[str, list[Stage]]
    """Networks between teacher and student of an arm, large to small, by arm."""
    students: dict[Cell, Stage]
    starts: dict[Cell, Stage]
    """Students that those of `students` are fine-tuned from."""

    @property
    def gan(self) -> Stage:
        """The generator, where an arm sees generated images."""
        assert self.generated is not None
        return self.generated.gan

    @property
    def ratio(self) -> Stage:
        """The density ratio, where an arm sees generated images."""
        assert self.generated is not None
        return self.generated.ratio

    @property
    def synth(self) -> Stage:
        """The pool, where an arm sees generated images."""
        assert self.generated is not None
        return self.generated.synth

    @property
    def shared(self) -> list[Stage]:
        """Every stage that students depend on, once, in the order of the method."""
        own = [] if self.virtual is None else [self.virtual]
        own += [] if self.generated is None else [self.gan, self.ratio, self.synth]
        own += [] if self.unlabelled is None else [self.unlabelled]
        stages = [self.teacher, *own] if own else []
        stages += self.lessons.values()
        stages += [stage for chain in self.assistants.values() for stage in chain]
        return list({stage.fingerprint: stage for stage in stages}.values())

    def __iter__(self) -> Iterator[Stage]:
        """Every stage once, in the order of the method."""
        stages = [*self.shared, *self.starts.values(), *self.students.values()]
        return iter({stage.fingerprint: stage for stage in stages}.values())

    def unfinished(self, arms: Sequence[Arm]) -> list[Arm]:
        """Arms of which a student is not finished; all of them where no students are declared."""
        left = {name for (name, _), stage in self.students.items() if not stage.done}
        return [arm for arm in arms if not self.students or arm.name in left]

    def missing_starts(self) -> list[Cell]:
        """Students to train whose start, which they are fine-tuned from, is not there yet."""
        return [cell for cell, start in self.starts.items() if not start.done and not self.students[cell].done]

    def to_make(self, arms: Sequence[Arm]) -> set[str]:
        """Fingerprints of the stages that `cgan_kd` would make before the students; the others are reused or unneeded.

        Args:
            arms: those that were declared.
        """
        arms = self.unfinished(arms)
        needed: list[Stage] = []
        if self.virtual is not None and not self.virtual.done and any(arm.reads_virtual for arm in arms):
            needed += [self.teacher, self.virtual]
        if any(arm.images is not None for arm in arms):
            needed.append(self.teacher)
            needed += [] if self.synth.done else [self.gan, self.ratio, self.synth]
        if self.unlabelled is not None and any(arm.unlabelled for arm in arms):
            needed += [self.teacher, self.unlabelled]
        for arm in arms:
            needed += [*([self.lessons[arm.name]] if arm.reads_teacher else []), *self.assistants[arm.name]]
        return {stage.fingerprint for stage in needed if not stage.done}

    @property
    def seconds(self) -> float:
        """Computing time of all finished stages."""
        return sum(stage.seconds for stage in self if stage.done)


def declare(experiment: Experiment, arms: Sequence[Arm], seeds: Sequence[int] = ()) -> Stages:
    """Name every stage that the students of some arms depend on.

    Args:
        experiment: settings, images and run folder.
        arms: ways to train the students.
        seeds: of the students of each arm.

    Raises:
        ConfigError, DataError, ModelError, CheckpointError: a network, an external generator or the user's weights
            cannot be found or used.
    """
    recipe = experiment.recipe
    teacher = teacher_stage(experiment, recipe.teacher)
    given = recipe.student.virtual
    virtual = generated = None
    if given is None and any(arm.reads_virtual for arm in arms):
        virtual = virtual_stage(experiment, recipe.virtual, teacher)
    if any(arm.images is not None for arm in arms):
        gan = gan_stage(experiment, recipe.gan, teacher)
        ratio = ratio_stage(experiment, recipe.ratio, gan)
        generated = Generated(gan, ratio, synth_stage(experiment, recipe.synth, ratio))
    read = given_fingerprint(given) if given is not None and any(arm.reads_virtual for arm in arms) else None
    unlabelled = unlabelled_stage(experiment, teacher) if any(arm.unlabelled for arm in arms) else None
    inputs = Inputs(
        read if virtual is None else virtual.fingerprint, None if generated is None else generated.synth, unlabelled
    )
    finetuned = {arm.name: arm for arm in arms if arm.starts_from_another(arm.recipe(recipe).student)}
    return Stages(
        teacher,
        virtual,
        generated,
        unlabelled,
        {arm.name: lesson_stage(experiment, arm.recipe(recipe)) for arm in arms if arm.reads_teacher},
        {arm.name: assistant_stages(experiment, arm, inputs) for arm in arms},
        {(arm.name, seed): student_stage(experiment, arm, seed, inputs) for seed in seeds for arm in arms},
        {
            (name, seed): student_stage(experiment, arm.start, seed, inputs)
            for seed in seeds
            for name, arm in finetuned.items()
        },
    )
