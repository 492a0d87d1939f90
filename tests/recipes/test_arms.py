"""Arms: what they refuse, what each is trained on, and arms of a user's own from Python and from TOML files."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gankd.recipes.workers
from gankd.bench import budget
from gankd.commands import evaluate, report, resume, run, student
from gankd.commands.export import export
from gankd.commands.stages import _stored_arms, stored_run
from gankd.config import from_dict, override, to_dict
from gankd.errors import ConfigError
from gankd.recipes import RECIPES, Recipe, generated, students, teacher
from gankd.recipes.arms import (
    DEFAULT_ARMS,
    Arm,
    Processing,
    arm_named,
    chosen_arms,
    controls_of,
    default_arms,
    methods_of,
)
from gankd.recipes.cgan_kd import cgan_kd
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import Cell, declare
from gankd.recipes.workers import run_jobs
from gankd.runs import Run, Stage
from gankd.storage import read_json
from gankd.synthetic import SelectConfig
from gankd.training.distill import distill

Outcome = tuple[int, str, str]


# --- what an arm is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": " "}, "an arm needs a name, got ' '"),
        ({"name": "two\nlines"}, r"an arm needs a name, got 'two\\nlines'"),
        *[
            ({"images": images, "loss": "KD"}, f"arm own: a loss goes with real images only .* got images={images}")
            for images in ("raw", "subsampled", "filtered")
        ],
        (
            {"updates": 0},
            "arm own: updates must be equal, passes, time, shared time or a whole number of at least 1, got 0",
        ),
        ({"seconds": 0.0}, "arm own: seconds must be positive, got 0.0"),
        ({"seconds": 2.0, "updates": 5}, "arm own: give seconds or updates, not both; got 2.0 and 5"),
        ({"role": "control", "images": "raw"}, "arm own: a control sees no generated images and a method does"),
        ({"role": "method"}, "arm own: a control sees no generated images and a method does, got role=method"),
        ({"loss": "0.5*KB"}, "no loss 'KB'"),
        *[
            ({"settings": (change,)}, f"arm own: {change} cannot differ between arms; .* student.* and select.*, but")
            for change in (
                "gan.steps=5",
                "teacher.lr=0.1",
                "ratio.lr=0.1",
                "synth.pool=5",
                "virtual.polish=5",
                "data.num_train=5",
                "seed=1",
                "seeds=1",
                "student.loss=KD",
                "student.updates=5",
                "student.augment=shift",
                "student.virtual=a",
            )
        ],
    ],
)
def test_an_arm_that_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Arm(**{"name": "own", **fields})
    assert "\n" not in str(error.value)


PROCESSINGS: tuple[Processing, ...] = ("raw", "subsampled", "filtered", "adjusted")
CHANGES = {
    "count": (SelectConfig(count=7), PROCESSINGS),
    "accept_share": (SelectConfig(accept_share=0.25), PROCESSINGS[1:]),
    "subsample": (SelectConfig(subsample="running_max", burn_in=9), PROCESSINGS[1:]),
    "filter": (SelectConfig(filter="per_group"), PROCESSINGS[2:]),
    "rho": (SelectConfig(rho=0.5), PROCESSINGS[2:]),
    "adjust": (SelectConfig(adjust="soft"), PROCESSINGS[3:]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_images_are_selected_up_to_the_step_of_the_arm(change: str) -> None:
    """A setting of a later step changes nothing, so that students of earlier steps are not retrained."""
    config, reached = CHANGES[change]
    arms = {images: Arm(name="own", images=images) for images in PROCESSINGS}
    assert {images for images, arm in arms.items() if arm.selection(config) != arm.selection(SelectConfig())} == {
        *reached
    }
    for images in reached:
        found = arms[images].selection(config)
        assert found is not None
        assert getattr(found, change) == getattr(config, change)
    assert Arm(name="own").selection(config) is None


def test_steps_that_an_arm_does_not_reach_do_nothing() -> None:
    chosen = [Arm(name="own", images=images).selection(SelectConfig(adjust="soft")) for images in PROCESSINGS]
    steps = [(found.subsample, found.filter, found.adjust) for found in chosen if found is not None]
    assert steps == [
        ("none", "none", "none"),
        ("budget", "none", "none"),
        ("budget", "published", "none"),
        ("budget", "published", "soft"),
    ]


def test_an_arm_carries_the_settings_of_its_students() -> None:
    recipe = override(RECIPES["digits"](), ["student.updates=100", "student.fake_share=0.75", "select.rho=0.9"])
    recipe = override(recipe, ["student.augment=[]"])
    settings = ("student.lr=0.007", "select.rho=0.5", "student.fake_share=0.5")
    arm = Arm(name="own", images="adjusted", loss="AT", augment=("shift",), updates=7, settings=settings)
    own = arm.recipe(recipe)
    expected = override(recipe, [*settings, "student.loss=AT", "student.augment=shift", "student.updates=7"])
    assert own == expected
    assert (own.data, own.teacher, own.gan, own.ratio, own.synth) == (
        recipe.data,
        recipe.teacher,
        recipe.gan,
        recipe.ratio,
        recipe.synth,
    )
    assert Arm(name="own", updates="passes").recipe(recipe).student.updates == 25
    assert Arm(name="own", updates="passes", settings=settings).recipe(recipe).student.updates == 50
    assert Arm(name="own").recipe(recipe) == recipe
    assert (Arm(name="own").title, Arm(name="own", title="Own").title) == ("own", "Own")


def test_default_arms_have_two_controls_and_end_with_the_method() -> None:
    arms = default_arms(Recipe(time_cap=1))
    assert controls_of(arms) == ["real_matched", "kd_matched"]
    assert methods_of(arms) == ["adjusted", "adjusted_kd"] == [arm.name for arm in arms[-2:]]
    assert [arm.folder_name for arm in arms] == list(DEFAULT_ARMS)  # folders of runs made before arms had names
    assert len({arm.title for arm in arms}) == len(arms)
    assert all(arm.updates == "equal" for arm in arms if arm.name != "real")
    assert [arm.images for arm in arms[3:]] == [*PROCESSINGS, "adjusted"]


def test_other_lengths_are_controls_and_methods_of_their_own() -> None:
    recipe = override(Recipe(time_cap=1), ["lengths=[1,4]", "student.updates=50"])
    arms = {arm.name: arm for arm in default_arms(recipe)}
    longer = ["real_matched_x4", "kd_matched_x4", "adjusted_x4", "adjusted_kd_x4"]
    assert [name for name in arms if name not in DEFAULT_ARMS] == longer
    assert list(arms)[:5] == ["real", "real_matched", "kd_matched", "real_matched_x4", "kd_matched_x4"]
    for name in longer:
        base = arms[name.removesuffix("_x4")]
        assert replace(arms[name], name=base.name, title=base.title, updates="equal") == base
        assert arms[name].recipe(recipe).student == replace(base.recipe(recipe).student, updates=200)
    assert [arms[name].title for name in longer] == [
        "real, x4",
        "KD, x4",
        "+ adjusted: cGAN-KD, x4",
        "cGAN-KD + KD, x4",
    ]
    assert default_arms(override(recipe, ["lengths=[1]"])) == default_arms(Recipe(time_cap=1))
    with pytest.raises(ConfigError, match="lengths"):
        override(recipe, ["lengths=[0]"])


def test_named_arms_and_the_users_own_have_other_lengths_too() -> None:
    recipe = override(Recipe(), ["lengths=[1,4]", "student.updates=50"])
    own = Arm(name="own", images="adjusted", role="method")
    fixed, step = replace(own, name="fixed", updates=70), replace(own, name="step", role="step")
    timed = Arm(name="timed", seconds=3.0, role="control")
    arms = chosen_arms(recipe, ["real_matched", "raw", own, fixed, step, timed, "kd_time"])
    assert [arm.name for arm in arms[7:]] == ["real_matched_x4", "own_x4"]
    assert [arm.updates for arm in arms[7:]] == [200, 200]
    assert chosen_arms(recipe, arms) == arms  # as a run folder gives them back
    assert _stored_arms(recipe, arms) == ["real_matched", "raw", own, fixed, step, timed, "kd_time"]
    assert _stored_arms(recipe, default_arms(recipe)) is None


# --- which arms ---------------------------------------------------------------------------------------------


def test_arms_are_chosen_by_name_as_objects_as_plain_data_and_from_files(tmp_path: Path) -> None:
    recipe, own = Recipe(), Arm(name="own", loss="AT", augment=("shift",), settings=("student.lr=0.007",))
    assert chosen_arms(recipe, None) == default_arms(recipe)
    path = tmp_path / "arms.toml"
    path.write_text(GOOD)
    found = chosen_arms(recipe, ["real", own, to_dict(DEFAULT_ARMS["raw"]), str(path), "real", own])
    assert found[:3] == (arm_named(recipe, "real"), own, arm_named(recipe, "raw"))
    assert [arm.name for arm in found[3:]] == ["control", "attention + generated"]
    assert chosen_arms(recipe, [json.loads(json.dumps(to_dict(arm))) for arm in found]) == found  # as run.json has them
    assert from_dict(Arm, to_dict(own)) == own
    assert chosen_arms(recipe, [replace(own, augment=["shift"])]) == (own,)  # type: ignore[arg-type]
    other = replace(recipe, student=replace(recipe.student, loss="AT"))
    assert chosen_arms(other, ["kd_matched"])[0].loss == "AT"  # default arms have the recipe's loss
    with pytest.raises(ConfigError, match=r"no arm 'rwa'; did you mean raw.* \(arms of your own: name a TOML file\)"):
        chosen_arms(recipe, ["rwa"])
    with pytest.raises(ConfigError, match="at least one arm, got none"):
        chosen_arms(recipe, [])


GOOD = """
[[arm]]
name = "control"
title = "labels, wide"
augment = ["shift", "scale"]
role = "control"

[[arm]]
name = "attention + generated"
images = "adjusted"
loss = "AT"
updates = 9
role = "method"
settings = ["select.rho=0.8", "student.lr=0.007"]
"""


def test_every_field_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "arms.toml"
    path.write_text(GOOD)
    assert chosen_arms(Recipe(), [str(path)]) == (
        Arm(name="control", title="labels, wide", augment=("shift", "scale"), role="control"),
        Arm(
            name="attention + generated",
            title="attention + generated",
            images="adjusted",
            loss="AT",
            updates=9,
            role="method",
            settings=("select.rho=0.8", "student.lr=0.007"),
        ),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[arm]]\nname = 'a'\nimgaes = 'raw'", r"arms.toml: arm a: no setting imgaes; did you mean images\?"),
        ("[[arm]]\nname = 'a'\nfakes = 'raw'", "arms.toml: arm a: no setting fakes; "),
        ("[[arm]]\nname = 'a'\nimages = 'rwa'", "arms.toml: arm a: images must be .* adjusted, got 'rwa'"),
        (
            "[[arm]]\nname = 'a'\nupdates = 'many'",
            "arms.toml: arm a: updates must be equal, passes, time, .*, got 'many'",
        ),
        ("[[arm]]\nname = 'a'\nrole = 'boss'", "arms.toml: arm a: role must be one of .*, got 'boss'"),
        ("[[arm]]\nname = 'a'\naugment = ['shfit']", "arms.toml: arm a: augment.*, got 'shfit'"),
        ("[[arm]]\nname = 'a'\nseconds = true", "seconds must be a number"),
        ("[[arm]]\nname = 'a'\nimages = 'raw'\nloss = 'KD'", "arm a: a loss goes with real images only"),
        ("[[arm]]\ntitle = 'a'", "arms.toml: arm 1: name is missing"),
        ("", r"arms.toml: expected one \[\[arm\]\] table per arm and nothing else, got an empty file"),
        ("x = 1\n[[arm]]\nname = 'a'", r"expected one \[\[arm\]\] table per arm and nothing else, got x, arm"),
        ("[arm]\nname = 'a'", r"expected one \[\[arm\]\] table per arm"),
        ("arm = ['a']", r"expected one \[\[arm\]\] table per arm"),
        ("[[arm]\nname = 'a'", "arms.toml: not a readable TOML file: "),
        ("[[arm]]\nname = 'a'\n[[arm]]\nname = 'a'\nloss = 'KD'", "two arms are called 'a'; rename one"),
        ("[[arm]]\nname = 'real'\nloss = 'KD'", "two arms are called 'real' .*; rename one"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "arms.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        chosen_arms(Recipe(), ["real", str(path)])
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file of arms .*none.toml"):
        chosen_arms(Recipe(), [str(tmp_path / "none.toml")])
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "folder.toml").mkdir()
    for name in ("binary.toml", "folder.toml"):
        with pytest.raises(ConfigError, match=f"{name}: not a readable TOML file"):
            chosen_arms(Recipe(), [str(tmp_path / name)])


@pytest.mark.parametrize("wrong", [{"images": "rwa"}, {"updates": "eqaul"}, {"updates": 2.5}, {"augment": ("shfit",)}])
def test_slips_in_an_arm_from_python_are_refused_before_anything_is_trained(
    wrong: dict[str, Any], tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """Values that a type checker refuses; an arm of unknown images or length must not train something else."""
    with pytest.raises(ConfigError, match=f"arm own: {next(iter(wrong))}"):
        run(override(RECIPES["digits"](), tiny), tmp_path / "run", arms=[Arm(**{"name": "own", **wrong})])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"settings": ("student.lrr=1",)}, "no setting student.lrr; did you mean lr"),
        ({"settings": ("student.model=cnn5",)}, "no model 'cnn5'"),
        ({"loss": "Distribution"}, "loss Distribution is for regression"),
        ({"loss": "KD", "settings": ("student.teacher=cnn5",)}, "no model 'cnn5'"),
        ({"loss": "KD", "settings": ('student.assistants=["cnn5"]',)}, "no model 'cnn5'"),
    ],
)
def test_an_arm_that_cannot_be_trained_is_refused_before_anything_is(
    fields: dict[str, Any], message: str, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(Exception, match=message):
        run(override(RECIPES["digits"](), tiny), tmp_path / "run", arms=["adjusted", Arm(name="own", **fields)])
    assert not list(tmp_path.rglob("config.json"))


# --- arms of one's own, run ---------------------------------------------------------------------------------


@pytest.fixture
def copied(digits_run: tuple[Recipe, Path], tmp_path: Path) -> tuple[Recipe, Path]:
    """A finished run to change at will."""
    recipe, folder = digits_run
    return recipe, Path(shutil.copytree(folder, tmp_path / "run"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages of the students that have been trained; all other training fails."""
    names: list[str] = []

    def watched(*args: Any, stage: Stage, **options: Any) -> Any:
        names.append(stage.name)
        return distill(*args, stage=stage, **options)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("this should have been reused")

    monkeypatch.setattr(students, "distill", watched)
    for module, loop in ((teacher, "train_supervised"), (generated, "train_gan"), (generated, "train_ratio")):
        monkeypatch.setattr(module, loop, fail)
    return names


OWN = Arm(
    name="own",
    title="a method of my own",
    images="adjusted",
    loss="Label + AT",
    role="method",
    settings=("select.rho=0.8",),
)


def contents(folder: Path) -> tuple[dict[str, Any], str]:
    results: dict[str, Any] = read_json(folder / "results.json")
    return results, (folder / "report.html").read_text()


def test_an_arm_from_python_is_run_reported_and_resumed(copied: tuple[Recipe, Path], trained: list[str]) -> None:
    recipe, folder = copied
    before = set(folder.iterdir())
    found = run(recipe, folder, arms=["real_matched", OWN])
    assert trained == ["student-adjusted_kd-0", "student-adjusted_kd-1"]  # arms with another loss share the name
    assert len([path for path in set(folder.iterdir()) - before if path.is_dir()]) == 2
    assert [arm.arm for arm in found.arms] == [arm_named(recipe, "real_matched"), OWN]
    assert found.arms[1].loss == "Label + 1000*AT"
    assert found.choice.method == "own"
    assert "a method of my own" in found.headline
    results, page = contents(folder)
    assert [(arm["arm"], arm["seeds"]) for arm in results["arms"]] == [("real_matched", [0, 1]), ("own", [0, 1])]
    assert [(row["arm"], row["control"]) for row in results["rows"]] == [("own", "real_matched")]
    assert OWN.title in page

    stored = stored_run(folder)
    assert stored[1] is not None
    assert stored[1][0] == "real_matched"
    assert chosen_arms(recipe, stored[1]) == (arm_named(recipe, "real_matched"), OWN)
    again = resume(folder)
    assert len(trained) == 2
    assert again.arms == found.arms
    assert {**contents(folder)[0], "report": None} == {**results, "report": None}


def test_an_arm_from_a_file_is_run_reported_and_resumed(
    copied: tuple[Recipe, Path], trained: list[str], tmp_path: Path, gankd: Callable[..., Outcome]
) -> None:
    _, folder = copied
    path = tmp_path / "my arms.toml"
    path.write_text(GOOD)
    code, out, err = gankd("run", folder, "--arms", f"real_matched,{path}", "--json", "--workers", 1)
    assert code == 0, err
    assert trained == [f"student-{kind}-{seed}" for seed in (0, 1) for kind in ("real_matched", "adjusted_kd")]
    names = ["real_matched", "control", "attention + generated"]
    assert [arm["arm"] for arm in json.loads(out.splitlines()[-1])["arms"]] == names
    results, page = contents(folder)
    assert [arm["arm"] for arm in results["arms"]] == names
    assert {(row["arm"], row["control"]) for row in results["rows"]} == {
        ("control", "real_matched"),
        ("real_matched", "control"),
        ("attention + generated", "control"),
        ("attention + generated", "real_matched"),
    }
    assert [row["updates"] for row in results["rows"] if row["arm"].startswith("attention")] == [9, 9]
    assert "labels, wide" in page
    assert "attention + generated" in page

    path.unlink()  # the run keeps the arms themselves
    code, out, err = gankd("resume", folder, "--json", "--workers", 1)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["arms"] == results["arms"]
    assert len(trained) == 4


def test_commands_after_a_run_know_its_own_arms(
    copied: tuple[Recipe, Path], trained: list[str], tmp_path: Path
) -> None:
    recipe, folder = copied
    run(recipe, folder, arms=["real_matched", OWN])
    names = [arm.name for arm in evaluate(recipe, folder).arms]
    assert names == [*DEFAULT_ARMS, "own"]  # and all others that are finished there
    assert OWN.title in report(recipe, folder).read_text()
    assert export(recipe, folder, tmp_path / "s.safetensors", arm="own").arm == "own"
    with pytest.raises(ConfigError, match="no arm 'ow'; did you mean own"):
        export(recipe, folder, tmp_path / "s.safetensors", arm="ow")
    assert len(trained) == 2


def test_an_arm_that_takes_the_name_of_a_default_one_replaces_it(
    copied: tuple[Recipe, Path], trained: list[str], tmp_path: Path
) -> None:
    """Whatever `run` accepts, the commands that read its folder accept as well."""
    recipe, folder = copied
    own = Arm(name="raw", title="raw, slowly", images="raw", settings=("student.lr=0.007",))
    found = run(recipe, folder, arms=["real_matched", own])
    assert trained == ["student-raw-0", "student-raw-1"]
    again = {arm.name: arm for arm in evaluate(recipe, folder).arms}
    assert again["raw"].arm == own
    assert again["raw"].values == found.arms[1].values
    assert own.title in report(recipe, folder).read_text()
    assert export(recipe, folder, tmp_path / "s.safetensors", arm="raw").arm == "raw"


def test_arms_that_come_down_to_one_student_are_trained_once(
    copied: tuple[Recipe, Path], trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[tuple[str, int]] = []

    def watched(function: Any, shared: Any, wanted: list[tuple[Arm, int, str]], *args: Any, **options: Any) -> Any:
        jobs.extend((arm.name, seed) for arm, seed, _ in wanted)
        return run_jobs(function, shared, wanted, *args, **options)

    monkeypatch.setattr(gankd.recipes.workers, "run_jobs", watched)
    recipe, folder = copied
    for path in folder.glob("student-kd_matched-*"):
        shutil.rmtree(path)
    same = Arm(name="mine", title="the same by another name", loss=recipe.student.loss, settings=("select.rho=0.5",))
    experiment = Experiment.open(recipe, Run(folder))
    arms, told = [arm_named(recipe, "kd_matched"), same], dict[Cell, Exception | None]()
    stages = declare(experiment, arms, [0, 1])
    assert {stage.fingerprint for (name, _), stage in stages.students.items() if name == "mine"} == {
        stage.fingerprint for (name, _), stage in stages.students.items() if name == "kd_matched"
    }
    cgan_kd(experiment, arms, [0, 1], ended=told.__setitem__)
    assert trained == ["student-kd_matched-0", "student-kd_matched-1"]
    assert jobs == [("kd_matched", 0), ("kd_matched", 1)]  # two workers would train the second in the same folder
    assert told == {(name, seed): None for name in ("kd_matched", "mine") for seed in (0, 1)}
    found = run(recipe, folder, arms=["kd_matched", same])
    assert len(trained) == 2
    assert found.arms[0].values == found.arms[1].values
    assert found.arms[0].seconds == found.arms[1].seconds
    assert found.arms[1].vs["kd_matched"].diff == 0
    assert found.arms[1].title == "the same by another name"


def test_what_makes_another_student(digits_run: tuple[Recipe, Path]) -> None:
    recipe, folder = digits_run
    experiment = Experiment.open(recipe, Run(folder))

    def prints(*arms: Arm) -> list[str]:
        stages = declare(experiment, [replace(arm, name=str(n)) for n, arm in enumerate(arms)], [0]).students
        return [stage.fingerprint for stage in stages.values()]

    base = Arm(name="a", images="adjusted", loss="KD")
    same = [
        replace(base, title="b"),
        replace(base, role="method"),
        replace(base, updates=recipe.student.updates),
        replace(base, loss="Label + KD"),
        replace(base, settings=(f"student.lr={recipe.student.lr}",)),
        replace(base, augment=recipe.student.augment),
    ]
    assert len(set(prints(base, *same))) == 1
    others = [
        replace(base, loss="2*KD"),
        replace(base, loss=None),
        replace(base, images=None),
        replace(base, images=None, loss=None),
        replace(base, augment=("shift",)),
        replace(base, augment=("colour",)),
        replace(base, updates=7),
        replace(base, updates="passes"),
        replace(base, settings=("student.lr=0.007",)),
        replace(base, settings=("select.rho=0.5",)),
        replace(base, settings=("student.fake_share=0.25",)),
        replace(base, settings=("student.model=cnn8",)),
        replace(base, settings=("student.teacher=cnn4",)),
        replace(base, settings=("student.assistants=cnn8",)),
    ]
    assert len(set(prints(base, *others))) == 1 + len(others)
    assert len(set(prints(replace(base, augment=("colour",)), replace(base, augment=("color",))))) == 1


def test_a_fine_tuned_arm_starts_from_a_student_with_its_own_settings(
    copied: tuple[Recipe, Path], trained: list[str]
) -> None:
    recipe, folder = copied
    plain = Arm(name="tuned", images="raw", settings=("student.init=finetune",))
    other = replace(plain, name="other", augment=("shift",))
    student(override(recipe, ["seeds=1"]), folder, arms=[plain, other, "raw"])
    # The finished student of arm `real` is the start of the one, but not of the other, which is augmented.
    assert trained == ["student-real-0", "student-raw-0", "student-raw-0"]
    stages = declare(Experiment.open(recipe, Run(folder)), [plain, other, arm_named(recipe, "real")], [0])
    assert set(stages.starts) == {("tuned", 0), ("other", 0)}
    assert stages.starts["tuned", 0].fingerprint == stages.students["real", 0].fingerprint
    assert stages.starts["other", 0].fingerprint != stages.students["real", 0].fingerprint
    assert all(stage.done for stage in stages)


def test_a_time_budget_is_measured_once(
    copied: tuple[Recipe, Path], trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = override(copied[0], ["seeds=1"]), copied[1]
    measured: list[str] = []

    class Prices:
        def __init__(self, *_: Any) -> None: ...

        def student(self, _: Experiment, arm: Arm) -> Any:
            measured.append(arm.name)
            return type("Step", (), {"seconds": 0.25})

    monkeypatch.setattr(budget, "Prices", Prices)
    arm = Arm(name="one second", loss="KD", seconds=1.0)
    found = run(recipe, folder, arms=["real", arm])
    assert [result.updates for result in found.arms] == [3, 4]
    assert trained == ["student-kd_matched-0"]
    again = resume(folder)
    assert again.arms == found.arms
    assert measured == ["one second"]
    assert [result.name for result in evaluate(recipe, folder).arms] == [*DEFAULT_ARMS, "one second"]
    assert (len(measured), len(trained)) == (1, 1)
