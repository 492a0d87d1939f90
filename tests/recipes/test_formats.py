"""Run folders of earlier versions: their stages keep their names, so that nothing is trained again."""

import shutil
from pathlib import Path

import pytest

from gankd.commands.stages import stored_run
from gankd.config import override
from gankd.errors import ConfigError
from gankd.recipes import RECIPES, Recipe
from gankd.recipes.arms import DEFAULT_ARMS, default_arms
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.recipes.virtual import virtual_stage
from gankd.runs import Run
from gankd.storage import read_json, write_json

OTHERS = (
    "student.teacher=cnn4",
    'student.assistants=["cnn16"]',
    "student.init=finetune",
    "ratio.features=classifier",
    "student.loss=Label + KD + SoftTargets@virtual",
)
# First letters of the fingerprints that version 0.1 gave these stages, which are the ends of their folders' names; but
# values of the teacher in filter and labels were not clipped to the label range then.
FOLDERS = {
    ("digits", ()): (
        "teacher b3bb56f9 virtual 338ff0e4 gan 1db4a4f9 ratio 1355ab28 synth c913c383 real 06001512 "
        "real_matched 62fa3925 kd_matched 2b464281 raw ee91c7e4 subsampled d02f2b32 filtered 02e2cbe1 "
        "adjusted f7fe7e68 adjusted_kd bb502be4"
    ),
    ("rotated-digits", ("student.loss=Label + Distribution@virtual",)): (
        "teacher 5480f6f3 virtual 113f970a gan a9bcbbf2 ratio 7ce8c7c3 synth 3c1b0779 real f620858d "
        "real_matched 48c4e19b kd_matched c1f0ce74 raw e8698324 subsampled 5a81ea67 filtered a037f0f2 "
        "adjusted 2307728c adjusted_kd 0d77a975"
    ),
    ("digits", OTHERS): (
        "teacher b3bb56f9 virtual 338ff0e4 gan 1db4a4f9 ratio 985be9f1 synth 7ab1bb37 real 06001512 "
        "real_matched fe8ec6be kd_matched efb5f91f raw a3973623 subsampled ce6cdc8f filtered d31d1f0b "
        "adjusted c7f3691c adjusted_kd a9f163db assistant-kd_matched 3a7d8fe0 assistant-adjusted_kd d5b83f12"
    ),
}


@pytest.mark.parametrize(("name", "settings"), FOLDERS)
def test_stages_are_called_as_before(name: str, settings: tuple[str, ...], tmp_path: Path) -> None:
    recipe = override(RECIPES[name](), [*settings, "precision=fp32", "device=cpu", "time_cap=1", "student.augment=[]"])
    experiment = Experiment.open(recipe, Run(tmp_path))
    stages = declare(experiment, default_arms(recipe), [0])
    found = {"teacher": stages.teacher, "gan": stages.gan, "ratio": stages.ratio, "synth": stages.synth}
    found["virtual"] = virtual_stage(experiment, recipe.virtual, stages.teacher)
    found |= {arm: stages.students[arm, 0] for arm in DEFAULT_ARMS}
    found |= {f"assistant-{arm}": chain[0] for arm, chain in stages.assistants.items() if chain}
    words = FOLDERS[name, settings].split()
    expected = dict(zip(words[::2], words[1::2], strict=True))
    assert {key: stage.fingerprint[:8] for key, stage in found.items()} == expected


def test_only_mixing_that_is_on_enters_an_identity(tmp_path: Path) -> None:
    found = {}
    plain = ("student.mix=none", "student.mix_alpha=0.5", "teacher.mix_alpha=2")  # nothing is mixed
    mixed = ("student.mix=mixup", "student.mix_alpha=0.5")
    for settings in ((), plain, ("student.mix=mixup",), mixed, ("student.mix=cutmix",), ("teacher.mix=cutmix",)):
        recipe = override(
            RECIPES["digits"](), [*settings, "precision=fp32", "device=cpu", "time_cap=1", "student.augment=[]"]
        )
        stages = declare(Experiment.open(recipe, Run(tmp_path)), default_arms(recipe), [0])
        students = tuple(stage.fingerprint for stage in stages.students.values())
        found[settings] = (stages.teacher.fingerprint, students)
    teachers = {settings: teacher for settings, (teacher, _) in found.items()}
    assert found[()] == found[plain]
    assert teachers[()] == teachers[mixed] != teachers["teacher.mix=cutmix",]
    for other in [settings for settings in found if settings not in ((), plain)][:3]:
        assert not set(found[()][1]) & set(found[other][1])
    assert len({students for _, students in found.values()}) == 5


def test_settings_of_another_version_are_refused_with_its_number(
    digits_run: tuple[Recipe, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(digits_run[1], tmp_path / "run"))
    stored = read_json(folder / "run.json")
    assert stored_run(folder)[0] == digits_run[0]
    stored["recipe"]["gan"]["hyperdrive"] = True
    write_json(folder / "run.json", stored | {"version": "9.9"})
    with pytest.raises(ConfigError, match=r"run.json, made by gankd 9.9: no setting gan.hyperdrive"):
        stored_run(folder)
    del stored["version"], stored["recipe"]["gan"]["hyperdrive"]  # as version 0.1 wrote it
    write_json(folder / "run.json", stored)
    assert stored_run(folder)[0] == digits_run[0]
