"""Code that a run folder names: never run unasked, and never in the way of the user who named it."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gankd.seals
from gankd.commands import resume, student, teach
from gankd.commands.stages import stored_run
from gankd.config import override, to_dict
from gankd.errors import TrustError
from gankd.recipes import RECIPES, Recipe
from gankd.recipes.code import named_code
from gankd.storage import read_json, write_json

Outcome = tuple[int, str, str]
MARK = "ran.txt"
EVIL = f"from pathlib import Path\nPath({MARK!r}).touch()\n"
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, in_channels, image_size, num_outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_outputs))

    def forward(self, x):
        return self.layers(x)
"""

PLACES: dict[str, tuple[dict[str, Any], Any]] = {
    "student": ({"student": {"model": "evil:Net"}}, None),
    "teacher": ({"teacher": {"model": "evil:Net+mlp"}}, None),
    "another teacher": ({"student": {"teacher": "evil:Net"}}, None),
    "assistants": ({"student": {"assistants": ["cnn4", "evil:Net"]}}, None),
    "generator": ({"gan": {"external": "evil:Net"}}, None),
    "loss": ({"student": {"loss": "KD + 0.5*evil:margin"}}, None),
    "loss with a dot": ({"student": {"loss": "KD + evil.margin(a=1)"}}, None),
    "loss in wide letters": ({"student": {"loss": "ｅｖｉｌ.margin"}}, None),
    "loss of an arm": ({}, [{"name": "a", "loss": "evil:margin"}]),
    "network of an arm": ({}, [{"name": "a", "settings": ["student.model=evil:Net"]}]),
    "network of an arm, escaped": ({}, [{"name": "a", "settings": ['student.model="\\u0065vil:Net"']}]),
    "assistants of an arm": ({}, [{"name": "a", "loss": "KD", "settings": ['student.assistants=["evil:Net"]']}]),
}
OPENING = ("report", "plan", "eval", "export", "resume", "run", "teach", "student", "bound", "vkd train", "compare")


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a stranger's run, with a module that leaves a mark when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    Path("evil.py").write_text(EVIL)
    return tmp_path


def written(recipe: dict[str, Any], arms: Any = None, **more: Any) -> None:
    """run.json in the current folder."""
    write_json(Path("run.json"), {"recipe": recipe, "arms": arms, "version": "1", **more})


@pytest.mark.parametrize("place", PLACES)
def test_a_run_folder_runs_no_code_wherever_it_names_it(place: str, strange: Path, refused: Callable[..., str]) -> None:
    written(*PLACES[place])
    for command in OPENING if place == "student" else OPENING[:1]:
        said = refused(*command.split(), ".")
        assert "names 'evil:" in said
        assert f"code in {strange / 'evil.py'} that is not part of gankd" in said
        assert "add --trust" in said
    assert not Path(MARK).exists()
    with pytest.raises(TrustError):
        resume(".")


@pytest.mark.parametrize("place", PLACES)
def test_with_trust_it_is_run(place: str, strange: Path, gankd: Callable[..., Outcome]) -> None:
    """So the case before is one where the code would have run."""
    recipe, arms = PLACES[place]
    name = "rotated-digits" if "+mlp" in str(recipe) else "digits"
    whole = to_dict(override(RECIPES[name](), []))
    for group, values in recipe.items():
        whole[group] |= values
    written(whole, arms)
    gankd("plan" if arms is None else "report", ".", "--trust")  # plan names the default arms
    assert Path(MARK).exists()
    gankd_trusted.clear()


gankd_trusted = gankd.seals._trusted


def test_arms_in_a_run_folder_are_not_files(strange: Path, refused: Callable[..., str]) -> None:
    Path("arms.toml").write_text("[[arm]]\nname = 'a'\nloss = 'evil:margin'\n")
    written({}, ["arms.toml"])
    assert "run.json is damaged" in refused("resume", ".")
    assert not Path(MARK).exists()


def test_settings_that_are_no_code() -> None:
    harmless = {
        "data": {"root": "/data/a:b", "class_list": "c:d"},
        "teacher": {"model": "timm:resnet18.a1_in1k+mlp", "class_names": ["a:b"], "weights": "x:y.pt"},
        "gan": {"external": "diffusers:dit"},
        "student": {"loss": '0.5*Label + 2.5*KD@virtual(policy="a:b")', "virtual": "z:1"},
        "device": "cuda:0",
    }
    assert named_code([harmless, [{"name": "my: arm", "title": "+ adjusted: cGAN-KD"}, "raw"]]) == set()
    for name, recipe in RECIPES.items():
        assert named_code(to_dict(recipe())) == set(), name


# --- the user's own runs ------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe with a network of the user's, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    Path("my_nets.py").write_text(NET)
    return override(RECIPES["digits"](), (*tiny, "student.model=my_nets:Net", "seeds=1"))


def test_the_users_run_needs_no_trust(own: Recipe, gankd: Callable[..., Outcome], refused: Callable[..., str]) -> None:
    student(own, "mine", arms=["real"])
    assert gankd("report", "mine")[0] == 0
    Path("my_nets.py").write_text(NET + "\n# edited\n")
    del sys.modules["my_nets"]
    code, _, err = gankd("plan", "mine")
    assert code == 0, err
    shutil.copytree("mine", "theirs")  # as if a stranger had sent it
    said = refused("report", "theirs")
    assert "theirs/run.json names 'my_nets:Net'" in said
    stored = read_json(Path("mine/run.json"))
    stored["recipe"]["teacher"]["model"] = "os:abort"  # another name is not sealed
    write_json(Path("mine/run.json"), stored)
    assert "mine/run.json names 'os:abort'" in refused("report", "mine")


def test_the_same_module_elsewhere_is_not_the_users(
    own: Recipe, gankd: Callable[..., Outcome], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(own, "mine")
    folder = Path("mine").resolve()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    assert "code in a module that is not found here" in refused("report", folder)
    Path("my_nets.py").write_text(EVIL)
    assert f"code in {Path('my_nets.py').resolve()}" in refused("report", folder)
    assert not Path(MARK).exists()


def test_a_command_takes_over_what_the_user_trusts(own: Recipe, gankd: Callable[..., Outcome]) -> None:
    teach(own, "mine")
    shutil.copytree("mine", "theirs")
    with pytest.raises(TrustError):
        stored_run(Path("theirs"))
    assert gankd("teach", "theirs", "--trust")[0] == 0
    gankd_trusted.clear()
    assert stored_run(Path("theirs"))[0].student.model == "my_nets:Net"


def test_a_recipe_of_the_user_replaces_a_strangers_run(own: Recipe, strange: Path) -> None:
    Path("out").mkdir()
    write_json(Path("out/run.json"), {"recipe": to_dict(own), "arms": PLACES["loss of an arm"][1]})
    teach(own, "out")  # the user names my_nets, and nobody evil
    stored = read_json(Path("out/run.json"))
    assert (stored["arms"], list(stored["seals"])) == (None, ["my_nets:Net"])
    assert not Path(MARK).exists()


def test_the_key_is_the_users(
    own: Recipe, configuration: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    teach(own, "mine")
    key = tmp_path / "config" / "gankd" / "key"
    assert (key.stat().st_mode & 0o777, key.stat().st_size) == (0o600, 32)
    assert sorted(path.name for path in key.parent.iterdir()) == ["key"]
    before = key.read_bytes()
    teach(own, "mine")
    assert key.read_bytes() == before
    key.chmod(0o644)
    with pytest.raises(TrustError, match="the key that seals your runs cannot be read: others can read or write it"):
        stored_run(Path("mine"))
    key.unlink()
    with pytest.raises(TrustError):
        stored_run(Path("mine"))


def test_without_a_configuration_folder_the_command_works_and_says_what_is_missing(
    own: Recipe,
    tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gankd: Callable[..., Outcome],
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    settings = [word for change in (*tiny, "student.model=my_nets:Net") for word in ("--set", change)]
    code, _, err = gankd("teach", "digits", "--out", "mine", *settings)
    assert code == 0, err
    assert "the next command in this folder needs --trust for your own code: " in err
    with pytest.raises(TrustError, match="you did not name it here"):
        stored_run(Path("mine"))
