"""Trials of ways to make generated images worth more, measured on images that are neither trained on nor test images.

    python benchmarks/options.py digits --trials base,fresh
    python benchmarks/options.py rotated-digits --trials base,lecam --seeds 3 --generators 0,1,2

Each trial changes one thing of cGAN-KD + KD. Every student is appended to benchmarks/results/options.jsonl when it
is trained, with its metric on the validation images, and on these together with the training images that the recipe
leaves out ("wide"). Students in that file are not trained again. `--page` writes benchmarks/results/options.md from it.

The recipe's teacher and generator are made in RUNS/RECIPE, or found there. All students of a seed start from the same
weights and see the same real images in the same order, so trials are paired by generator and seed. The teacher's
outputs are stored for `VIEWS` augmented views of each image, so that it need not run at every step.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from scipy.stats import t
from torch import Tensor, nn
from torch.func import functional_call

from gankd.console import Console
from gankd.data.augment import augment
from gankd.data.images import LabelledImages
from gankd.data.mix import mix
from gankd.generators.networks import LatentGenerator
from gankd.losses.adversarial import discriminator_loss
from gankd.losses.distillation.kd import kd_loss, regression_kd_loss
from gankd.losses.vicinal import VicinalDraw, Vicinity
from gankd.models.contract import ImageModel, evaluate, predict, predict_with_features
from gankd.recipes import RECIPES
from gankd.recipes.arms import Arm
from gankd.recipes.data import load_splits
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import make_generator, sample_images
from gankd.recipes.stages import declare
from gankd.recipes.teacher import make_teacher
from gankd.runs import Run
from gankd.seeds import Batches, derive_seed, rng
from gankd.synthetic import select
from gankd.synthetic.files import MANIFEST
from gankd.synthetic.generate import generate
from gankd.synthetic.pool import SyntheticSet
from gankd.training import gan
from gankd.training.ratio import train_ratio
from gankd.training.supervised import make_optimizer

RESULTS = Path(__file__).parent / "results"
FOUND, PAGE = RESULTS / "options.jsonl", RESULTS / "options.md"
VIEWS = {"real": 128, "fake": 4}
"""Augmented views of each image; one where the students are not augmented."""
Rows = Mapping[tuple[int, int], Mapping[str, Any]]
"""Students of a trial by generator and seed."""
PREFACE = """
Written by `python benchmarks/options.py --page` from options.jsonl; the head of that script says how. One teacher per
recipe; students cnn16: digits 2,000 updates with the teacher's augmentation, rotated-digits 1,200 on plain images.
Gains are means over pairs of one generator and seed, with half of the 95 % interval; positive is better. All figures
are of the 360 validation images; "wide" are these with the 598 training images that the recipe leaves out.

**Kept:** `synth.fresh`, for values; off by default. **Dropped:** everything else that is marked so. Its interval
includes zero, or it is worse; only that of `lecam` does not, but it has one generator, whose luck is in no interval.
`chosen` was kept before, by 5 students of a prototype (+1.1 points): here its interval includes zero.

**At equal time** nothing here is shown to beat KD. Rotated-digits: `fresh-4x` reaches 4.07 degrees (3 students), KD
with 8 times the updates 4.16 (2 students). In processor seconds, a student of 4 times the updates takes 30 and KD of 8
times 65; generator, ratio and the large pool are estimated at 160. For all that, one student could have KD with 20
times the updates, which was not trained. Where several students share a pool, the sum is another.

**Mixing a real with a generated image** needs no option: `student.mix` mixes across the whole batch, and the teacher
sees the mixed image. It gained nothing (benchmarks/strong_students.py, two students, the teacher's augmentation; KD,
then cGAN-KD + KD): digits with mixup 95.97 and 95.42, with CutMix 94.72 and 94.44; rotated-digits with C-Mixup 5.18
and 5.21 degrees.

**Not measured:** generator updates towards disagreement of teacher and student; adaptive vicinity (CcGAN-AVAR) and the
teacher's loss in the generator, for which this script has the code (`adaptive`, `auxiliary`); more than one generator.
"""
FRESH = {"digits": 150_000, "rotated-digits": 112_000}
"""Images of a pool that is so large that a student sees no image of it twice."""


# --- what all trials share --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """Images as students see them: V views (V, N, C, H, W), labels (N, ...), and the teacher's outputs (V, N, ...)."""

    images: Tensor
    labels: Tensor
    outputs: Tensor


class Setting:
    """A recipe's images, teacher, generator and pool."""

    def __init__(self, name: str, folder: Path, run: Run) -> None:
        self.name, self.folder = name, folder
        self.recipe = RECIPES[name]()
        self.experiment = ex = Experiment.open(self.recipe, run)
        arm = Arm(name="x", images="adjusted", loss=self.recipe.student.loss)
        self.config = arm.recipe(self.recipe).student
        self.kinds, self.task, self.engine = self.config.augment, ex.splits.task, ex.engine
        self.stages = declare(ex, [arm], [0])
        self.teacher = make_teacher(ex, self.recipe.teacher, self.stages.teacher)
        known = {image.numpy().tobytes() for image in ex.splits.train.images}
        every = load_splits(replace(self.recipe.data, num_train=None)).train
        left = torch.tensor([image.numpy().tobytes() not in known for image in every.images])
        spare, val = every.subset(left.nonzero()[:, 0]), ex.splits.val
        images, labels = torch.cat([val.images, spare.images]), torch.cat([val.labels, spare.labels])
        self.wide = LabelledImages(images, labels, self.task)

    def seen(self, images: Tensor, labels: Tensor, views: int, purpose: str) -> Seen:
        """Images in augmented views, or as they are, with the teacher's outputs."""
        rows = (
            [images]
            if not self.kinds
            else [augment(images, self.kinds, rng(0, "view", purpose, view)) for view in range(views)]
        )
        outputs = [predict(self.teacher, row, self.engine).cpu() for row in rows]
        return Seen(torch.stack(rows), labels, torch.stack(outputs))

    @cached_property
    def real(self) -> Seen:
        train, path = self.experiment.splits.train, self.folder / "real.pt"
        if not path.exists():
            seen = self.seen(train.images, self.task.mixable(train.labels), VIEWS["real"], "real")
            torch.save((seen.images, seen.labels, seen.outputs), path)
        return Seen(*torch.load(path))

    @cached_property
    def generator(self) -> LatentGenerator:
        """The run's own generator, seed 0."""
        return make_generator(self.experiment, self.teacher, self.recipe.gan, self.stages.gan)

    def pool(self, generator: LatentGenerator, seed: int, size: int, folder: Path) -> SyntheticSet:
        """A scored pool, as the run makes it."""
        train, engine = self.experiment.splits.train, self.engine
        count = max(2 * len(train), 2048)
        labels = self.task.sample_labels(count, train.labels, "empirical", rng(seed, "ratio labels"))

        def features(images: Tensor) -> Tensor:
            return predict_with_features(self.teacher, images, engine)[1]

        images = sample_images(generator, labels, seed, "ratio")
        ratio = train_ratio(
            features(train.images), train.labels, features(images), labels, self.task, self.recipe.ratio, seed
        )

        def score(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            outputs, found = predict_with_features(self.teacher, images, engine)
            return outputs, ratio.log_ratio(found, labels.to(found.device))

        how = self.recipe.synth.labels
        labels = self.task.sample_labels(size, train.labels, how, rng(seed, "pool labels"))
        return generate(folder, generator.sample, score, self.task, labels, seed, provenance={"pool": folder.name})


# --- students ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """One way to train a student on real and generated images."""

    fakes: bool = True
    times: int = 1
    """Updates, in units of the recipe's."""
    share: float = 0.5
    """Share of generated images in a batch."""
    split: str = ""
    """Generated images have batch statistics of their own, in "statistics"; with weights of their own in "all"."""
    mix: str = "none"
    choices: int = 1
    until: float = 1.0
    picks: str = "all"
    """Generated images: which ones, see `PICKS`."""
    generator: str = "base"
    """How the generator is trained, see `GENERATORS`."""
    plain: bool = False
    """Images as they are, without the teacher's augmentation."""


def train(setting: Setting, way: Way, fake: Seen | None, seed: int) -> ImageModel:
    """A student of this way; in eval mode."""
    config, task, engine = setting.config, setting.task, setting.engine
    updates, size, real = way.times * config.updates, config.batch_size, setting.real
    student = engine.place(setting.experiment.model(config.model, derive_seed(seed, "student")))
    own = norms_of(student, way.split) if fake is not None and way.split else {}
    trained = nn.ModuleList([student, nn.ParameterList(p for p in own.values() if isinstance(p, nn.Parameter))])
    optimizer, schedule = make_optimizer(trained, config, updates)
    count = round(way.share * size) if fake is not None else 0
    batches = Batches(len(real.labels), size - count, seed, "student real")
    last = Batches(len(real.labels), size, seed, "student real", "last")
    drawn = None if fake is None else Batches(len(fake.labels), way.choices * count, seed, "student fake")
    for step in range(updates):
        student.train()
        views = rng(seed, "view", step)
        ends = step >= round(way.until * updates)
        parts = [rows(real, (last if ends else batches)(step), views)]
        if fake is not None and drawn is not None and not ends:
            images, labels, outputs = rows(fake, drawn(step), views)
            if way.choices > 1:
                student.eval()
                with torch.no_grad(), engine.autocast():
                    excess = task.excess_loss(student(images), labels)
                student.train()
                index = excess.topk(count).indices
                images, labels, outputs = images[index], labels[index], outputs[index]
            parts.append((images, labels, outputs))
        images, labels, outputs = (torch.cat(part) for part in zip(*parts, strict=True))
        if way.mix != "none":
            images, labels = mix(images, labels, task, way.mix, 1.0, rng(seed, "mix", step))
            with torch.no_grad(), engine.autocast():
                outputs = setting.teacher(images)
        with engine.autocast():
            if own and len(parts) == 2:
                border = len(parts[0][0])
                first = student(images[:border])
                found = torch.cat([first, functional_call(student, own, (images[border:],))])
            else:
                found = student(images)
        loss = objective(setting, found, labels, outputs).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return student.eval()


def rows(seen: Seen, index: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and outputs at `index`, each in a view of its own."""
    view = torch.randint(len(seen.images), (len(index),), generator=random)
    return seen.images[view, index], seen.labels[index], seen.outputs[view, index].float()


def objective(setting: Setting, found: Tensor, labels: Tensor, outputs: Tensor) -> Tensor:
    """The recipes' student.loss: 0.2*Label + 0.8*KD of classes, 0.5*Label + 0.5*KD of values."""
    task, label_loss = setting.task, setting.task.loss(found, labels)
    if task.has_classes:
        return 0.2 * label_loss + 0.8 * kd_loss(found.float(), outputs.float(), 4.0)
    return 0.5 * label_loss + 0.5 * regression_kd_loss(found, outputs, task.high - task.low)


def norms_of(student: nn.Module, split: str) -> dict[str, Tensor]:
    """Copies of the buffers, and with "all" of the weights, of all batch normalisation."""
    own: dict[str, Tensor] = {}
    for name, module in student.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            own |= {f"{name}.{key}": buffer.clone() for key, buffer in module.named_buffers()}
            if split == "all":
                own |= {f"{name}.{key}": nn.Parameter(p.detach().clone()) for key, p in module.named_parameters()}
    return own


# --- which generated images -------------------------------------------------------------------------------------


def picked(setting: Setting, pool: SyntheticSet, way: Way, seed: int) -> Tensor:
    """Positions in the pool of the images that the students see."""
    task, count = setting.task, setting.recipe.select.count
    assert count is not None
    if way.picks in ("all", "fresh"):
        config = setting.recipe.select if way.picks == "all" else replace(setting.recipe.select, count=None)
        return select(pool, config, seed).index
    if way.picks == "failed":  # labels in proportion to the errors of a student of KD on validation images
        student = train(setting, Way(fakes=False), None, 1000)
        val = setting.experiment.splits.val
        outputs = predict(student, val.images, setting.engine).cpu()
        errors = task.errors(outputs, val.labels)
        groups, number = task.groups(val.labels), task.num_groups
        sums, counts = torch.zeros(number).index_add_(0, groups, errors.float()), groups.bincount(minlength=number)
        mean = sums / counts.clamp_min(1)
        weights = (mean / mean.sum()).clamp_min(0.5 / number)
        consistent = select(pool, replace(setting.recipe.select, count=None), seed).index
        mine = task.groups(pool.labels[consistent])
        chance = (weights / mine.bincount(minlength=number))[mine]
        return consistent[torch.multinomial(chance, count, generator=rng(seed, "failed"))]
    if way.picks == "between":  # labels in proportion to their distance to the nearest one that was observed
        consistent = select(pool, replace(setting.recipe.select, count=None), seed).index
        gaps = (pool.labels[consistent][:, None] - setting.experiment.splits.train.labels).abs().amin(1)
        return consistent[torch.multinomial(gaps.double(), count, generator=rng(seed, "between"))]
    # T.stddev as a score: images whose outputs lie near the mean output
    index = select(pool, replace(setting.recipe.select, count=None, filter="none"), seed).index
    index = index[torch.randperm(len(index), generator=rng(seed, "soft"))]
    shares = task.shares(pool.teacher_outputs(index))
    spread = (shares - shares.mean(0)).square().sum(1)
    return index[spread.argsort(stable=True)[:count]]


# --- generators -------------------------------------------------------------------------------------------------


class LeCam:
    """Discriminator loss with the regularisation of LeCam-GAN (Tseng et al., CVPR 2021)."""

    def __init__(self, weight: float) -> None:
        self.weight, self.count = weight, 0
        self.real = self.fake = torch.zeros(())

    def __call__(self, kind: str, real: Tensor, fake: Tensor, *weights: Tensor | None) -> Tensor:
        self.count += 1
        self.real = torch.lerp(real.detach().mean(), self.real, 0.99)
        self.fake = torch.lerp(fake.detach().mean(), self.fake, 0.99)
        unbiased = 1 - 0.99**self.count
        penalty = F.relu(real - self.fake / unbiased).square().mean()
        penalty = penalty + F.relu(self.real / unbiased - fake).square().mean()
        return discriminator_loss(kind, real, fake, *weights) + self.weight * penalty  # type: ignore[arg-type]


class Taught(gan.GanTrainer):
    """The generator also descends a term of the teacher on its images."""

    term: Callable[[Tensor, Tensor], Tensor]

    def _generator_gradient(self, number: int) -> Tensor:
        loss = super()._generator_gradient(number)
        random = rng(self.seed, "taught", number)
        with gan.float32_spectral_norm(self.generator), self.engine.autocast():
            target = self.batches.targets(self.config.batch_size, random).to(self.engine.device)
            fake = self.generator(self._latent(len(target), random), target).float()
            self.term((fake + 1) / 2, target).backward()
        return loss


def auxiliary(setting: Setting, weight: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The teacher's cross-entropy to the label, or its absolute error beyond the mean gap of labels."""
    task, teacher = setting.task, setting.teacher

    def term(images: Tensor, labels: Tensor) -> Tensor:
        outputs = teacher(images)
        if task.has_classes:
            return weight * F.cross_entropy(outputs.float(), labels)
        return weight * (task.normalise(outputs.float()) - task.normalise(labels)).abs().mean()

    return term


class Adaptive(Vicinity):
    """Hard window around each target that holds at least so many images (CcGAN-AVAR)."""

    least: int = 20

    def draw(self, count: int, generator: torch.Generator) -> VicinalDraw:
        centre = self._pick_distinct(count, generator)
        target = centre + self._noise(count, generator)
        radius = (self.labels - target[:, None]).abs().kthvalue(self.least, dim=1).values
        first = torch.searchsorted(self.labels, target - radius)
        last = torch.searchsorted(self.labels, target + radius, right=True)
        uniform = torch.rand((2, count), generator=generator, dtype=torch.float64)
        position = (first + (uniform[0] * (last - first)).long()).clamp_max(len(self.labels) - 1)
        low, high = (target - radius).clamp(0, 1), (target + radius).clamp(0, 1)
        one = torch.ones(count)
        fake_label = low + uniform[1] * (high - low)
        return VicinalDraw(target.float(), self.order[position], one, fake_label.float(), one)


def trained_generator(setting: Setting, kind: str, seed: int) -> LatentGenerator:
    """A generator of this kind; with kind base and seed 0 the run's own."""
    config, train_set, engine = setting.recipe.gan, setting.experiment.splits.train, setting.engine
    if kind == "base" and seed == 0:
        return setting.generator
    made = Taught if kind.startswith("auxiliary") else gan.GanTrainer
    trainer = made(train_set, config, engine, seed, None, setting.teacher)
    if kind.startswith("auxiliary"):
        trainer.term = auxiliary(setting, float(kind.removeprefix("auxiliary")))  # type: ignore[attr-defined]
    if kind.startswith("adaptive"):
        vicinity = gan.fitted_vicinity(train_set, config)
        assert isinstance(vicinity, Vicinity)
        adaptive = Adaptive(**vars(vicinity))
        object.__setattr__(adaptive, "least", int(kind.removeprefix("adaptive")))
        trainer.batches.vicinity = adaptive  # type: ignore[union-attr]
    lecam = LeCam(float(kind.removeprefix("lecam"))) if kind.startswith("lecam") else None
    with mock.patch.object(gan, "discriminator_loss", lecam or discriminator_loss):
        for step in range(config.steps):
            trainer.generator.train()
            trainer.discriminators.train()
            for number in range(config.d_steps):
                trainer.discriminator_step(step * config.d_steps + number)
            trainer.generator_step(step)
            trainer.schedule_g.step()
            trainer.schedule_d.step()
    return trainer.averaged()


# --- trials -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One change, and whether it was kept."""

    text: str
    way: Way
    end: str = ""


TRIALS = {
    "kd": Trial("control: KD, no generated images", Way(fakes=False)),
    "kd-4x": Trial("control: KD, 4 times the updates", Way(fakes=False, times=4)),
    "kd-8x": Trial("control: KD, 8 times the updates", Way(fakes=False, times=8)),
    "base": Trial("cGAN-KD + KD", Way()),
    "chosen": Trial(
        "student.fake_choices=4, student.fake_until=0.9: of four generated images the one that the student fits least, "
        "real ones only at the end",
        Way(choices=4, until=0.9),
        "kept (as before), off by default",
    ),
    "fresh": Trial(
        "a pool so large that no image is seen twice (synth.fresh)",
        Way(picks="fresh"),
        "kept as synth.fresh, for values",
    ),
    "fresh-share": Trial("the same, three quarters of each batch generated", Way(picks="fresh", share=0.75), "dropped"),
    "fresh-4x": Trial(
        "the same as fresh, 4 times the updates, each image seen four times", Way(picks="fresh", times=4)
    ),
    "norms": Trial(
        "generated images have statistics and weights of their own in all batch normalisation, left out at the end",
        Way(split="all"),
        "dropped",
    ),
    "failed": Trial(
        "labels in proportion to the errors of a student of KD on validation images, by class or bin, at least half of "
        "an even share",
        Way(picks="failed"),
        "dropped",
    ),
    "between": Trial(
        "labels in proportion to their distance to the nearest training label", Way(picks="between"), "dropped"
    ),
    "soft": Trial(
        "T.stddev as the score in place of the filter: images whose teacher outputs are nearest to the mean output",
        Way(picks="soft"),
        "dropped",
    ),
    "lecam": Trial("generator: LeCam regularisation, weight 0.3", Way(generator="lecam0.3"), "dropped"),
    "auxiliary": Trial(
        "generator: the teacher's loss on its images, weight 1: cross-entropy to the label, or absolute error",
        Way(generator="auxiliary1.0"),
    ),
    "adaptive": Trial(
        "generator: hard vicinity that holds at least 30 of the 300 images (CcGAN-AVAR)",
        Way(generator="adaptive30"),
    ),
}


def fakes_of(setting: Setting, way: Way, seed: int) -> Seen:
    """The generated images of a way."""
    size = FRESH[setting.name] if way.picks in ("fresh", "failed", "between") else setting.recipe.synth.pool
    folder = setting.folder / f"pool-{way.generator}-{seed}-{size}"
    if (folder / MANIFEST).is_file():
        pool = SyntheticSet(folder)
    else:
        pool = setting.pool(trained_generator(setting, way.generator, seed), seed, size, folder)
    index = picked(setting, pool, way, seed)
    outputs, how = pool.teacher_outputs(index), setting.recipe.select.adjust
    labels = setting.task.adjust(outputs, pool.labels[index], setting.task.default_adjust if how == "auto" else how)
    views = 1 if way.picks == "fresh" else VIEWS["fake"]
    return setting.seen(pool.images(index), setting.task.mixable(labels), views, f"fake {seed}")


def measure(setting: Setting, name: str, seeds: int, generators: list[int]) -> None:
    """Train and judge the students of a trial that are not in the file."""
    way, metric = TRIALS[name].way, setting.task.metric
    for number in generators if way.fakes else [0]:
        done = {(row["recipe"], row["trial"], row["generator"], row["seed"]) for row in found()}
        missing = [seed for seed in range(seeds) if (setting.name, name, number, seed) not in done]
        fake = fakes_of(setting, way, number) if way.fakes and missing else None
        for seed in missing:
            begun = time.process_time()
            student = train(setting, way, fake, seed)
            row = {"recipe": setting.name, "trial": name, "generator": number, "seed": seed, "metric": metric}
            row["val"] = evaluate(student, setting.experiment.splits.val, setting.engine)[metric]
            row["wide"] = evaluate(student, setting.wide, setting.engine)[metric]
            row["cpu"] = time.process_time() - begun
            print(row, flush=True)
            with FOUND.open("a") as file:
                file.write(json.dumps(row) + "\n")


# --- the page ---------------------------------------------------------------------------------------------------


def found() -> list[dict[str, Any]]:
    """All students trained so far."""
    return [json.loads(line) for line in FOUND.read_text().splitlines()] if FOUND.exists() else []


def page() -> str:
    """One table per recipe: means, and gains over cGAN-KD + KD and over KD with paired 95 % intervals."""
    lines = [
        "# Ways to make generated images worth more, on validation images",
        "",
        *PREFACE.strip().splitlines(),
        "",
    ]
    for recipe in FRESH:
        mine = [row for row in found() if row["recipe"] == recipe]
        higher = recipe == "digits"
        lines += [
            f"## {recipe}, {mine[0]['metric']}, {'higher' if higher else 'lower'} is better",
            "",
            "| trial | generators x students | mean ± spread | gain over base | over KD | over base, wide | |",
            "|---|---:|---:|---:|---:|---:|---|",
        ]
        for name, trial in TRIALS.items():
            rows = {(row["generator"], row["seed"]): row for row in mine if row["trial"] == name}
            if not rows:
                continue
            base, kd = (
                {(row["generator"], row["seed"]): row for row in mine if row["trial"] == other}
                for other in ("base", "kd")
            )
            values = [row["val"] for row in rows.values()]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            count = len({number for number, _ in rows})
            kd = {(number, seed): kd[0, seed] for number, seed in rows if (0, seed) in kd}
            cells = [gain(rows, base, "val", higher), gain(rows, kd, "val", higher), gain(rows, base, "wide", higher)]
            lines.append(
                f"| `{name}`: {trial.text} | {count} x {len(rows) // count} | {statistics.fmean(values):.2f}{spread} | "
                f"{' | '.join(cells)} | {trial.end} |"
            )
        lines.append("")
    return "\n".join(lines)


def gain(rows: Rows, other: Rows, what: str, higher: bool) -> str:
    """Mean difference of paired students and half of its 95 % interval; positive is better."""
    sign = 1 if higher else -1
    differences = [sign * (row[what] - other[key][what]) for key, row in rows.items() if key in other]
    if len(differences) < 2 or not any(differences):
        return ""
    half = t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.fmean(differences):+.2f} ± {half:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=FRESH, nargs="?")
    parser.add_argument("--trials", default="kd,base")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--generators", default="0")
    parser.add_argument("--runs", type=Path, default=Path("runs/options"))
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    if options.recipe:
        with Run(options.runs / options.recipe, Console()) as run:
            setting = Setting(options.recipe, options.runs / options.recipe, run)
            for name in options.trials.split(","):
                measure(setting, name, options.seeds, [int(number) for number in options.generators.split(",")])
    if options.page:
        PAGE.write_text(page())
        print(PAGE)


if __name__ == "__main__":
    main()
