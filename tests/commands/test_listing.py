"""`gankd list` and `gankd inspect`: true of what is there, with a reason for what does not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gankd.commands import inspect_networks
from gankd.commands.listing import generators_table, list_generators, list_table, listing
from gankd.errors import ConfigError, ModelError
from gankd.generators.architectures import ARCHITECTURES
from gankd.models import ZOO, build_net
from gankd.recipes import RECIPES
from gankd.training import gan_published
from gankd.training.losses import all_losses

Outcome = tuple[int, str, str]


def test_losses_are_listed_with_all_that_a_user_must_know(gankd: Callable[..., Outcome]) -> None:
    code, out, _ = gankd("list", "losses", "--json")
    rows = {row["name"]: row for row in json.loads(out)["losses"]}
    assert code == 0
    assert set(rows) == set(all_losses())
    assert rows["DKD"]["tasks"] == ["classification"]
    assert rows["L1"]["tasks"] == ["regression"]
    assert rows["AT"]["tasks"] == ["classification", "regression"]
    assert rows["AT"]["weight"] == 1000
    assert rows["KD"]["settings"] == {"T": 4.0, "standardise": False}
    assert all(0.2 < row["cost"] < 100 for row in rows.values() if row["name"] != "ExchangeVKD")
    assert rows["ExchangeVKD"]["cost"] is None
    assert "folder" in rows["ExchangeVKD"]["needs"]
    assert rows["Distribution"]["needs"] == "@virtual or a stand-in"
    assert rows["SSKD"]["cost"] > 1.5  # four times the images
    text = list_table(list(rows.values()), "losses")
    assert all(len(line) <= 120 for line in text.splitlines())
    assert all(f"\n{name} " in text for name in rows)


def test_inputs_are_listed_as_the_losses_name_them(gankd: Callable[..., Outcome]) -> None:
    code, out, _ = gankd("list", "inputs", "--json")
    names = {row["name"] for row in json.loads(out)["inputs"]}
    assert code == 0
    assert {name for found in all_losses().values() for name in (*found.inputs, *found.build_inputs)} <= names
    assert "(N, K) logits" in gankd("list", "inputs")[1]


def test_models_and_recipes_are_listed() -> None:
    rows = listing("models")
    models = {row["name"]: row for row in rows}
    assert set(models) == set(ZOO)
    net = build_net("cnn8", in_channels=3, image_size=32, num_outputs=10, seed=0)
    assert models["cnn8"]["parameters"] == sum(p.numel() for p in net.parameters())
    by_hand = 9 * (3 * 8 * 32**2 + 8 * 16 * 16**2 + 16 * 32 * 8**2 + 32 * 32 * 4**2) + 32 * 10
    assert models["cnn8"]["multiply_adds"] == by_hand
    text = list_table(rows, "models")
    assert all(len(line) <= 120 for line in text.splitlines())
    assert all(f"\n  {name} " in text for name in ZOO)
    assert {row["name"] for row in listing("recipes")} == set(RECIPES)


def test_an_inspection_says_what_meets_and_what_fits() -> None:
    found = inspect_networks("resnet20", "cnn8", size=16, classes=10)
    assert found.pairs == [("features.2", "blocks.2"), ("features.6", "blocks.5"), ("features.10", "blocks.8")]
    shapes = dict(found.taps["student"]), dict(found.taps["teacher"])
    assert [(shapes[0][own], shapes[1][other]) for own, other in found.pairs] == [
        ((8, 16, 16), (16, 16, 16)),
        ((16, 8, 8), (32, 8, 8)),
        ((32, 4, 4), (64, 4, 4)),
    ]
    fits = {fit.name: fit for fit in found.losses}
    assert fits["FitNet"].applies
    assert fits["FitNet"].adapters == ("1x1 conv 16->32",)
    assert fits["FitNet"].parameters >= 16 * 32
    assert fits["L1"].other_task
    assert "for the other kind of label: Distribution, Gaussian, Histogram, L1" in found.text
    assert fits["AT"].parameters == 0
    assert not fits["L1"].applies
    assert "is for regression" in fits["L1"].reason
    assert "features.6" in found.text
    assert "42.5 times fewer" in found.text


def test_a_regression_is_inspected_without_classes_and_taps_can_be_named() -> None:
    found = inspect_networks(
        "resnet8", "cnn4", size=16, teacher_taps=("stem", "blocks.2"), student_taps=("features.0", "features.10")
    )
    assert found.pairs == [("features.0", "stem"), ("features.10", "blocks.2")]
    fits = {fit.name: fit.applies for fit in found.losses}
    assert fits["Histogram"]
    assert not fits["DKD"]


OWN = """from torch import nn
class Mlp(nn.Module):
    def __init__(self, image_size, in_channels, num_outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, 8), nn.ReLU(),
                                    nn.Linear(8, num_outputs))
    def forward(self, x):
        return self.layers(x)
"""


def test_networks_without_maps_keep_the_losses_that_need_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_mlp_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    found = inspect_networks("own_mlp_of_mine:Mlp", "cnn4", size=16, classes=3)
    assert found.pairs == []
    fits = {fit.name: fit for fit in found.losses}
    assert fits["CRD"].applies
    assert not fits["AT"].applies
    assert "has no feature maps" in fits["AT"].reason
    assert "none: " in found.text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("list loses", "no command 'loses'; did you mean losses"),
        ("inspect resnet20", "the following arguments are required: STUDENT"),
        ("inspect restnet20 cnn8", "no model 'restnet20'; did you mean resnet20"),
        ("inspect resnet20 cnn8 --classes 1", "needs at least 2 classes, got 1"),
        ("inspect resnet20 cnn8 --loss KDD", "no loss 'KDD'; did you mean"),
        ("inspect resnet20 cnn8 --size 2", "--size must be at least 4, got 2"),
        ("inspect resnet20 cnn8 --teacher-taps blocks.99 --student-taps features.2", "blocks.99"),
        ("compare digit", "no recipe and no run folder 'digit'; did you mean digits"),
        ("compare digits --loss KDD", "no loss 'KDD'; did you mean"),
        ("compare digits --seeds 0", "--seeds must be at least 1, got 0"),
        ("student digits --loss L1", "loss L1 is for regression and the labels are for classification"),
        ("student digits --loss KD*AT", "multiplies two losses"),
        ("run rotated-digits --loss DKD", "loss DKD is for classification and the labels are for regression"),
        ("run digits --loss AT --set student.student_taps=nowhere", "tap 'nowhere' of the student"),
        ("run digits --loss OFD --set student.compile=true", "student.compile is not possible with this loss: maps"),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    line: str, said: str, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(*line.split())


def test_sizes_that_no_network_can_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="--channels must be at least 1, got 0"):
        inspect_networks("resnet8", "cnn4", channels=0)
    with pytest.raises(ModelError, match="features.99"):
        inspect_networks("resnet8", "cnn4", student_taps=("features.99",))


def test_sources_are_listed(gankd: Callable[..., Outcome]) -> None:
    code, out, _ = gankd("list", "sources")
    assert code == 0
    assert "@virtual       the generator; draws=1, policy=fresh" in out
    assert "policy=best" in out


def test_every_architecture_of_generators_is_listed() -> None:
    rows = {row["name"]: row for row in list_generators()}
    assert list(rows) == list(ARCHITECTURES)
    assert rows["biggan"]["parameters"] == {"size": 32, "generator": 4_304_387, "discriminator": 4_207_361}
    text = generators_table(list(rows.values()))
    assert max(map(len, text.splitlines())) <= 120
    for row in rows.values():
        assert row["name"] in text
        assert not row["preset"] or callable(getattr(gan_published, row["preset"]))
