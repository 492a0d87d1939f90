"""Whole recipes on tiny data: every stage, what is reused, what a changed setting touches."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gankd.commands import run, student
from gankd.commands.stages import stored_run
from gankd.config import override
from gankd.data.images import Splits
from gankd.errors import CheckpointError, ConfigError, ModelError, RunError
from gankd.generators.networks import LatentGenerator
from gankd.models.contract import ImageModel
from gankd.recipes import RECIPES, Recipe, generated, students, teacher
from gankd.recipes.arms import DEFAULT_ARMS, Arm, arm_named, default_arms
from gankd.recipes.cgan_kd import arm_images, cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import load_generator, make_generator, make_ratio, make_ratio_features
from gankd.recipes.stages import Stages, declare
from gankd.recipes.students import restore_student
from gankd.recipes.teacher import make_teacher, refuse_chance_level, teacher_stage
from gankd.runs import Run, Stage
from gankd.storage import load_state, read_json, save_state
from gankd.synthetic import SelectConfig
from gankd.training.distill import distill

STAGES = ("teacher", "gan", "ratio", "synth")
LOOPS = {
    "train_supervised": (teacher, generated),
    "train_gan": (generated,),
    "train_autoencoder": (generated,),
    "train_ratio": (generated,),
    "generate": (generated,),
    "distill": (students,),
}
"""Training loops, and the modules that call them."""
Trained = Callable[[Experiment, str | Arm, int], ImageModel]


@pytest.fixture(params=["digits_run", "angles_run"])
def whole(request: pytest.FixtureRequest) -> tuple[Recipe, Path]:
    found: tuple[Recipe, Path] = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def copied(digits_run: tuple[Recipe, Path], tmp_path: Path) -> tuple[Recipe, Path]:
    """A finished run to change at will."""
    recipe, folder = digits_run
    return recipe, Path(shutil.copytree(folder, tmp_path / "run"))


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make training loops fail."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("this should have been reused")

    def call(*loops: str) -> None:
        for name in loops:
            for module in LOOPS[name]:
                monkeypatch.setattr(module, name, fail)

    return call


def kinds(folder: Path) -> dict[str, list[Path]]:
    """Stage folders by what they hold: teacher, gan, ..., student-raw-0, ..."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            found.setdefault(path.name.rpartition("-")[0], []).append(path)
    return found


def opened(recipe: Recipe, folder: Path, splits: Splits | None = None) -> Experiment:
    return Experiment.open(recipe, Run(folder), splits)


def declared(recipe: Recipe, folder: Path, splits: Splits | None = None) -> Stages:
    """All default arms with the first seed."""
    return declare(opened(recipe, folder, splits), default_arms(recipe), [0])


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and bytes of every file below."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_stage_and_every_arm_is_there(whole: tuple[Recipe, Path]) -> None:
    recipe, folder = whole
    found = kinds(folder)
    cells = [(arm, seed) for seed in range(recipe.seeds) for arm in DEFAULT_ARMS]
    assert sorted(found) == sorted([*STAGES, *(f"student-{arm}-{seed}" for arm, seed in cells)])
    for (stage,) in found.values():
        assert (stage / "done.json").is_file()
        assert not (stage / "checkpoint.safetensors").exists()
    page = (folder / "report.html").read_text()
    assert "</html>" in page
    assert all(arm.title in page for arm in default_arms(recipe))
    results = read_json(folder / "results.json")
    assert [arm["arm"] for arm in results["arms"]] == list(DEFAULT_ARMS)
    assert all(arm["seeds"] == [0, 1] for arm in results["arms"])
    assert {row["control"] for row in results["rows"]} == {"real_matched", "kd_matched"}
    for arm in results["arms"] if recipe.data.name == "digits" else ():
        assert list(arm["by_class"]) == [str(digit) for digit in range(10)]
        assert sum(arm["by_class"].values()) / 10 == pytest.approx(sum(arm["balanced"]) / 2)
    assert ("Accuracy per class" in page) == (recipe.data.name == "digits")
    assert results["report"].endswith("report.html")
    assert stored_run(folder) == (recipe, None)


def test_results_are_those_of_the_stored_students(digits_run: tuple[Recipe, Path], trained: Trained) -> None:
    recipe, folder = digits_run
    results = {arm["arm"]: arm["values"] for arm in read_json(folder / "results.json")["arms"]}
    experiment = opened(recipe, folder)
    test = experiment.splits.test
    for arm in ("real", "adjusted_kd"):
        with torch.no_grad():
            right = trained(experiment, arm, 1)(test.images).argmax(1) == test.labels
        assert results[arm][1] == pytest.approx(100 * right.double().mean().item())


def test_a_second_run_trains_nothing_and_finds_the_same(
    whole: tuple[Recipe, Path], forbid: Callable[..., None], tmp_path: Path
) -> None:
    recipe, folder = whole
    folder = Path(shutil.copytree(folder, tmp_path / "run"))
    before, results = content(folder), read_json(folder / "results.json")
    forbid(*LOOPS)
    again = run(recipe, folder)
    after = content(folder)
    assert {**again.to_dict(), "report": None} == {**results, "report": None}
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"run.json", "results.json", "report.html", ".lock"}


def test_another_rho_reads_the_scores_again_and_generates_nothing(
    copied: tuple[Recipe, Path], forbid: Callable[..., None]
) -> None:
    recipe, folder = copied
    before = content(folder)
    counts = selected(recipe, folder)
    forbid("train_supervised", "train_gan", "train_ratio", "generate")
    other = override(recipe, ["select.rho=0.5", "select.count=none"])
    assert selected(other, folder)["consistent"] < counts["consistent"]
    student(other, folder, arms=["raw", "filtered"])
    after = content(folder)
    assert {name: after[name] for name in before if name.startswith(STAGES)} == {
        name: before[name] for name in before if name.startswith(STAGES)
    }
    found = kinds(folder)
    assert all(len(found[stage]) == 1 for stage in STAGES)
    assert len(found["student-filtered-0"]) == 2
    assert len(found["student-subsampled-0"]) == 1  # not asked for


def selected(recipe: Recipe, folder: Path) -> dict[str, int]:
    experiment, arm = opened(recipe, folder), arm_named(recipe, "adjusted")
    counts: dict[str, int] = arm_images(experiment, arm, cgan_kd(experiment, [arm])).report["counts"]
    return counts


def test_another_gan_makes_all_that_rests_on_it_anew_and_keeps_the_teacher(
    copied: tuple[Recipe, Path], forbid: Callable[..., None]
) -> None:
    recipe, folder = copied
    forbid("train_supervised")
    student(override(recipe, ["gan.steps=5"]), folder, arms=["real", "kd_matched", "adjusted"])
    found = kinds(folder)
    assert len(found["teacher"]) == 1
    assert [len(found[stage]) for stage in ("gan", "ratio", "synth", "student-adjusted-0")] == [2, 2, 2, 2]
    assert len(found["student-real-0"]) == len(found["student-kd_matched-0"]) == 1  # they see no fakes


FAKES = {"raw", "subsampled", "filtered", "adjusted", "adjusted_kd"}
KD = {"kd_matched", "adjusted_kd"}


@pytest.mark.parametrize(
    ("setting", "stages"),
    [
        ("teacher.lr=0.01", {"teacher", "gan", "ratio", "synth"} | FAKES | KD),
        ("gan.lr_g=0.01", {"gan", "ratio", "synth"} | FAKES),
        ("ratio.lr=0.01", {"ratio", "synth"} | FAKES),
        ("synth.pool=500", {"synth"} | FAKES),
        ("select.subsample=none", FAKES - {"raw"}),
        ("select.accept_share=0.3", FAKES - {"raw"}),
        ("select.rho=0.5", {"filtered", "adjusted", "adjusted_kd"}),
        ("select.adjust=argmax", {"adjusted", "adjusted_kd"}),
        ("student.lr=0.01", set(DEFAULT_ARMS)),
        ("student.model=cnn8", set(DEFAULT_ARMS)),
        ("seed=1", {"teacher", "gan", "ratio", "synth"} | FAKES | KD),
        ("data.label_noise=0.1", {"teacher", "gan", "ratio", "synth"} | set(DEFAULT_ARMS)),
        ("seeds=7", set()),
        ("name=other", set()),
    ],
)
def test_a_setting_touches_its_stage_and_all_that_rest_on_it(
    setting: str, stages: set[str], digits_run: tuple[Recipe, Path]
) -> None:
    recipe, folder = digits_run

    def prints(recipe: Recipe) -> dict[str, str]:
        stages = declared(recipe, folder)
        own: dict[str, Stage] = {name: getattr(stages, name) for name in STAGES}
        own |= {name: stages.students[name, 0] for name in DEFAULT_ARMS}
        return {name: stage.fingerprint for name, stage in own.items()}

    before, after = prints(recipe), prints(override(recipe, [setting]))
    assert {name for name in before if before[name] != after[name]} == stages


VARIANTS = {
    "relativistic": ("gan.loss=relativistic", "gan.penalty=r1r2", "gan.spectral_norm=false", "gan.batch_norm=false"),
    "logistic": ("gan.loss=logistic", "gan.penalty=r1", "gan.penalty_every=2"),
    "classifier features": ("ratio.features=classifier", "ratio.loss=ulsif"),
    "published": ("ratio.loss=softplus", "select.subsample=running_max", "select.burn_in=10", "select.adjust=argmax"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str, copied: tuple[Recipe, Path]) -> None:
    recipe, folder = copied
    result = student(override(recipe, ["seeds=1", *VARIANTS[variant]]), folder, arms=["adjusted_kd"])
    assert [arm.name for arm in result.arms] == ["adjusted_kd"]
    assert len(kinds(folder)["teacher"]) == 1
    if variant == "classifier features":
        ratio = next(path for path in kinds(folder)["ratio"] if (path / "classifier").is_dir())
        assert (ratio / "classifier" / "model.safetensors").is_file()


def test_finetuning_starts_from_the_student_of_real_images(
    copied: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch, trained: Trained
) -> None:
    recipe, folder = copied
    recipe = override(recipe, ["student.init=finetune", "seeds=1"])
    starts: list[torch.Tensor] = []

    def spy(model: Any, *args: Any, **options: Any) -> Any:
        starts.append(torch.cat([value.flatten() for value in model.net.parameters()]).detach().clone())
        return distill(model, *args, **options)

    monkeypatch.setattr(students, "distill", spy)
    student(recipe, folder, arms=["adjusted"])  # `real` is there: it is the same student without fine-tuning
    real = trained(opened(recipe, folder), "real", 0)
    weights = torch.cat([value.flatten() for value in real.net.parameters()])
    (tuned,) = starts
    assert torch.equal(tuned, weights)
    for path in folder.glob("student-real-0-*"):
        shutil.rmtree(path)
    student(recipe, folder, arms=["raw"])  # trains `real` first, though not asked to show it
    fresh, tuned = starts[1:]
    assert torch.equal(tuned, weights)
    assert not torch.equal(fresh, weights)


def test_fine_tuning_has_its_own_learning_rate_and_one_start(digits_run: tuple[Recipe, Path]) -> None:
    recipe, folder = digits_run
    tuned = override(recipe, ["student.init=finetune", "student.finetune_lr=1e-4", "student.start_updates=5"])
    configs = {arm.name: arm.recipe(tuned).student for arm in default_arms(tuned)}
    real = configs.pop("real")
    assert (real.updates, real.lr) == (5, recipe.student.lr)
    assert {(config.lr, config.updates) for config in configs.values()} == {(1e-4, recipe.student.updates)}
    made = [declared(each, folder) for each in (tuned, override(tuned, ["student.fake_share=0.25"]))]
    assert all({name for name, _ in stages.starts} == set(configs) for stages in made)
    starts = {stage.fingerprint for stages in made for stage in stages.starts.values()}
    starts |= {stages.students["real", 0].fingerprint for stages in made}
    fresh = override(recipe, [f"student.updates={round(5 / (1 - recipe.student.fake_share))}"])
    assert starts == {declared(fresh, folder).students["real", 0].fingerprint}  # one student for all
    wrongs = {"student.start_updates=5": "is for student.init=finetune", "student.finetune_lr=0": "0, 10"}
    for wrong, reason in wrongs.items():
        with pytest.raises(ConfigError, match=reason):
            override(recipe, [wrong])


def test_an_ensemble_as_teacher(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe = override(digits_run[0], ["teacher.members=2"])
    experiment = opened(recipe, tmp_path)
    images, stage = experiment.splits.val.images, teacher_stage(experiment, recipe.teacher)
    outputs = make_teacher(experiment, recipe.teacher, stage)(images)
    members = [stage.part(f"member-{number}").stored_history()[-1] for number in (0, 1)]
    assert members[0] != members[1]
    again = opened(recipe, tmp_path)
    stage = teacher_stage(again, recipe.teacher)
    assert stage.done
    assert torch.equal(make_teacher(again, recipe.teacher, stage)(images), outputs)


def test_a_users_trained_weights_as_teacher(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    def made(recipe: Recipe, folder: Path) -> tuple[ImageModel, Stage]:
        experiment = opened(recipe, folder)
        stage = teacher_stage(experiment, recipe.teacher)
        return make_teacher(experiment, recipe.teacher, stage), stage

    recipe, folder = digits_run
    own, own_stage = made(recipe, folder)
    images = opened(recipe, folder).splits.val.images
    mean, std = own.mean.flatten().tolist(), own.std.flatten().tolist()
    torch.save(own.net.state_dict(), tmp_path / "net.pt")
    given = override(recipe, [f"teacher.weights={tmp_path / 'net.pt'}", f"teacher.mean={mean}", f"teacher.std={std}"])
    theirs, stage = made(given, tmp_path / "run")
    assert torch.equal(theirs(images), own(images))
    assert (stage.result or {})["val"] == (own_stage.result or {})["val"]
    (folder,) = kinds(tmp_path / "run")["teacher"]
    assert not (folder / "metrics.jsonl").exists()  # nothing was trained
    with pytest.raises(CheckpointError, match="net.pt does not fit cnn4: .*size mismatch"):
        made(override(given, ["teacher.model=cnn4"]), tmp_path / "run")


def test_images_in_memory_take_the_place_of_the_recipes(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = digits_run
    splits = opened(recipe, folder).splits
    darker = replace(splits.train, images=splits.train.images // 2)
    given = Splits(darker, splits.val, splits.test, "darker")
    result = run(override(recipe, ["seeds=1"]), tmp_path / "run", arms=["real"], splits=given)
    own, other = (declared(recipe, tmp_path / "run", images).students["real", 0] for images in (given, None))
    assert own.done
    assert not other.done
    assert len(result.arms[0].values) == 1


def test_time_of_the_pool_is_its_own(digits_run: tuple[Recipe, Path]) -> None:
    _, folder = digits_run
    seconds = {kind: read_json(paths[0] / "done.json")["seconds"] for kind, paths in kinds(folder).items()}
    assert seconds["synth"] < sum(seconds[kind] for kind in ("teacher", "gan"))


# --- arms ---------------------------------------------------------------------------------------------------


def test_arms_take_the_selection_up_to_their_step() -> None:
    config = SelectConfig(adjust="soft")
    steps = {
        name: None if chosen is None else (chosen.subsample, chosen.filter, chosen.adjust)
        for name, chosen in ((name, arm.selection(config)) for name, arm in DEFAULT_ARMS.items())
    }
    assert steps == {
        "real": None,
        "real_matched": None,
        "kd_matched": None,
        "raw": ("none", "none", "none"),
        "subsampled": ("budget", "none", "none"),
        "filtered": ("budget", "published", "none"),
        "adjusted": ("budget", "published", "soft"),
        "adjusted_kd": ("budget", "published", "soft"),
    }


def test_only_the_plain_baseline_has_fewer_updates(digits_run: tuple[Recipe, Path]) -> None:
    recipe = override(digits_run[0], ["student.fake_share=0.75", "student.updates=100"])
    updates = {arm.name: arm.recipe(recipe).student.updates for arm in default_arms(recipe)}
    assert updates.pop("real") == 25  # as many passes over real images as arms with fakes make
    assert set(updates.values()) == {100}


# --- what cannot be used ------------------------------------------------------------------------------------


def test_chance_level_in_both_directions(digits_run: tuple[Recipe, Path], angles_run: tuple[Recipe, Path]) -> None:
    digits, angles = (opened(*each).splits.val for each in (digits_run, angles_run))
    constant = torch.zeros(len(digits), 10)
    right = torch.nn.functional.one_hot(digits.labels, 10).float()
    middle = angles.labels.median()
    for val, bad, good in (
        (digits, constant, torch.where(torch.arange(len(digits))[:, None] % 20 == 0, right, constant)),
        (angles, middle.expand(len(angles)), middle + 0.2 * (angles.labels - middle)),
    ):
        refuse_chance_level(good, val, "teacher")
        with pytest.raises(ModelError, match="teacher is at chance level: (top1|mae) .* a constant guess has"):
            refuse_chance_level(bad, val, "teacher")


def test_labels_that_are_all_the_same_cannot_judge_a_teacher(
    digits_run: tuple[Recipe, Path], angles_run: tuple[Recipe, Path]
) -> None:
    for run_, outputs in ((digits_run, torch.eye(10)[7].expand(5, 10)), (angles_run, torch.full((5,), 7.0))):
        val = opened(*run_).splits.val
        one = replace(val, images=val.images[:5], labels=torch.full((5,), 7, dtype=val.task.label_dtype))
        with pytest.raises(ModelError, match="teacher cannot be judged: all 5 validation images have the label 7; add"):
            refuse_chance_level(outputs, one, "teacher")


def damaged(folder: Path, pattern: str, change: Callable[[Path], None]) -> None:
    (path,) = folder.glob(pattern)
    change(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def exchange(path: Path) -> None:
    """Another network's weights."""
    save_state(path, {"net.weight": torch.zeros(3)})


@pytest.mark.parametrize(
    ("pattern", "change", "message"),
    [
        ("teacher-*/model.safetensors", cut, "truncated or damaged"),
        ("teacher-*/model.safetensors", exchange, "does not fit; delete"),
        ("teacher-*/model.safetensors", Path.unlink, "no checkpoint"),
        ("gan-*/generator.safetensors", cut, "truncated or damaged"),
        ("gan-*/generator.safetensors", exchange, "is not a generator"),
        ("ratio-*/ratio.safetensors", exchange, "does not fit; delete"),
        ("synth-*/pool/images-00000.npy", cut, "bytes instead of"),
        ("student-raw-1-*/model.safetensors", cut, "truncated or damaged"),
        ("teacher-*/config.json", cut, "not readable JSON"),
        ("teacher-*/config.json", lambda path: path.write_text("{}"), "does not describe this stage; delete"),
        ("teacher-*/config.json", Path.unlink, "no file .*config.json"),
        ("student-raw-1-*/done.json", lambda path: path.write_text("[]"), "done.json is damaged; delete"),
        ("student-raw-1-*/done.json", lambda path: path.write_text(""), "not readable JSON"),
    ],
)
def test_damaged_files_are_named(
    copied: tuple[Recipe, Path], pattern: str, change: Callable[[Path], None], message: str
) -> None:
    recipe, folder = copied
    damaged(folder, pattern, change)
    arm = arm_named(recipe, "raw")
    with pytest.raises(CheckpointError, match=message) as error:
        experiment = opened(recipe, folder)
        stages = declare(experiment, [arm], [1])
        network = make_teacher(experiment, recipe.teacher, stages.teacher)
        generator = make_generator(experiment, network, recipe.gan, stages.gan)
        features = make_ratio_features(experiment, network, recipe.ratio, recipe.teacher, stages.ratio)
        make_ratio(experiment, features, generator, recipe.ratio, stages.ratio)
        arm_images(experiment, arm, stages)
        restore_student(experiment, arm, stages.students["raw", 1])
    assert "\n" not in str(error.value)
    assert Path(pattern).name in str(error.value) or "pool" in str(error.value)


def test_the_remedy_of_a_damaged_stage_works(copied: tuple[Recipe, Path]) -> None:
    recipe, folder = copied
    results = read_json(folder / "results.json")["arms"]
    damaged(folder, "student-raw-1-*/model.safetensors", cut)
    damaged(folder, "student-raw-1-*", shutil.rmtree)
    run(recipe, folder)
    assert read_json(folder / "results.json")["arms"] == results


def test_a_generator_is_whole_in_its_file(digits_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = digits_run
    (path,) = folder.glob("gan-*/generator.safetensors")
    alone = tmp_path / "anywhere"
    shutil.copy(path, alone)
    generator = load_generator(alone)
    experiment = opened(recipe, folder)
    stages = declared(recipe, folder)
    network = make_teacher(experiment, recipe.teacher, stages.teacher)
    original = make_generator(experiment, network, recipe.gan, stages.gan)
    assert generator.task == original.task
    assert isinstance(generator, LatentGenerator)
    assert isinstance(original, LatentGenerator)
    assert all(torch.equal(a, b) for a, b in zip(generator.parameters(), original.parameters(), strict=True))
    stored = load_state(path)
    del stored["state"][next(iter(stored["state"]))]
    save_state(alone, stored)
    with pytest.raises(CheckpointError, match="is not a complete generator"):
        load_generator(alone)


def test_too_small_a_disk_is_refused_before_anything_is_trained(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forbid: Callable[..., None]
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**4)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    forbid(*LOOPS)
    for loss in ("KD", "SoftTargets@virtual"):
        recipe = override(RECIPES["digits"](), (*tiny, f"student.loss={loss}"))
        with pytest.raises(RunError, match="the images need .* and the disk has .* free"):
            run(recipe, tmp_path / "run")


@pytest.mark.parametrize("setting", ["teacher.mean=[0.5]", "teacher.std=[0.5]", "teacher.class_names=a,b"])
def test_what_belongs_to_given_weights_is_refused_without_them(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belongs to teacher.weights, which is not set"):
        opened(override(RECIPES["digits"](), [setting]), tmp_path)
