"""`gankd list` and `gankd inspect`: true of what is there, with a reason for what does not fit."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from gankd.bench.loss_costs import measure_costs
from gankd.commands import inspect_networks
from gankd.commands.listing import all_rows, listing, table_row
from gankd.errors import ConfigError, ModelError
from gankd.generators.architectures import ARCHITECTURES
from gankd.models import ZOO, build_net
from gankd.recipes import RECIPES
from gankd.recipes.published import TABLES
from gankd.report import lists
from gankd.report.lists import What, read_lists
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
    assert rows["Distribution"]["needs"] == "@virtual or a baseline in its place"
    assert rows["SSKD"]["cost"] > 1.5  # four times the images
    text = gankd("list", "losses")[1]
    assert all(len(line) <= 120 for line in text.splitlines())
    assert all(f"\n{name} " in text for name in rows)
    assert "gankd list losses --measure measures here" in " ".join(text.split())


@pytest.fixture
def module() -> Any:
    return sys.modules["gankd.commands.listing"]  # the package has a function of this name


@pytest.mark.parametrize("what", get_args(What))
def test_nothing_is_measured_to_print_a_list(
    what: What, gankd: Callable[..., Outcome], module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("measure_costs", "machine_speed", "estimate"):
        monkeypatch.setattr(module, name, None)
    monkeypatch.setattr(time, "perf_counter", None)
    code, out, _ = gankd("list", what)
    assert code == 0
    assert len(out.splitlines()) > 5


def test_a_list_is_the_stored_one_and_reads_no_code() -> None:
    """A heavy library takes longer to import than a list may take."""
    heavy = ("torch", "numpy", "pydantic", "sklearn", "scipy", "matplotlib", "gankd.commands")
    calls = "".join(f"main(['list', {what!r}])\n" for what in get_args(What))
    code = "import sys\nfrom gankd.cli import main\n" + calls
    code += f"print([name for name in {heavy!r} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(Path(lists.__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_the_stored_lists_are_those_of_the_code(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `make lists`."""
    monkeypatch.setattr(module, "table_row", lambda table, speed: {"name": table.name, "summary": table.title})
    content = read_lists()
    costs = {row["name"]: row["cost"] for row in content["losses"]}
    for name, rows in json.loads(json.dumps(all_rows(costs, 1.0))).items():
        kept = content[name]
        if name == "tables":
            kept = [{key: row[key] for key in ("name", "summary")} for row in kept]
        assert kept == rows, f"the stored list of {name} is not that of the code: make lists"
    assert content["loss_files"] == lists.loss_files()


@pytest.mark.slow
def test_the_stored_tables_are_those_of_the_code() -> None:
    content = read_lists()
    speed = content["machine"]["operations_per_second"]
    rows = json.loads(json.dumps([table_row(table, speed) for table in TABLES.values()]))
    assert content["tables"] == rows, "the stored list of tables is not that of the code: make lists"


def test_a_loss_that_the_stored_list_does_not_know_is_listed_from_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    content = read_lists()
    fewer = [row for row in content["losses"] if row["name"] != "AT"]
    monkeypatch.setattr(lists, "read_lists", lambda: {**content, "losses": fewer, "loss_files": []})
    assert lists.stored("losses") is None
    assert {row["name"] for row in listing("losses").rows} == set(all_losses())


def test_costs_are_measured_where_that_is_asked_for(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = read_lists()
    speed = stored["machine"]["operations_per_second"]
    monkeypatch.setattr(module, "machine_speed", lambda: speed / 2)
    monkeypatch.setattr(module, "measure_costs", lambda losses: {found.name: 7.0 for found in losses})
    found = listing("losses", measure=True)
    assert {row["cost"] for row in found.rows} == {7.0, None}
    assert "Measured on this machine." in found.text
    before, after = listing("recipes", ["rc49-r5"]).tables, listing("recipes", ["rc49-r5"], measure=True).tables
    cost, here = before[0]["estimate"]["small"], after[0]["estimate"]["small"]
    assert here["seconds"] == 2 * cost["seconds"]
    assert here["gigabytes"] == cost["gigabytes"]
    with pytest.raises(ConfigError, match="nothing in the list of models is measured; omit --measure"):
        listing("models", measure=True)


@pytest.mark.slow
def test_the_cost_of_a_loss_is_that_of_an_update() -> None:
    known = [all_losses()[name] for name in ("L1", "SSKD")]
    costs = measure_costs(known)
    assert 0.8 < costs["L1"] < costs["SSKD"] < 100  # SSKD reads four times the images


def test_a_published_table_is_listed_with_its_estimates_and_whose_speed_they_assume() -> None:
    found = listing("recipes", ["tiny-imagenet", "rc49-r5"])
    assert found.rows == []
    text = " ".join(found.text.split())
    assert found.machine.processor in text
    assert "gankd list recipes --measure uses the speed of this machine" in text
    assert max(map(len, found.text.splitlines())) <= 120
    assert {"pair": "mobilenet_v2", "method": "cGAN-KD", "printed": 1.18} in found.tables[1]["published"]
    one = " ".join(listing("recipes", ["rc49-r5"]).text.split())
    assert "mean absolute error on test images" in one.lower()
    assert "- A validation split is carved out" in one
    with pytest.raises(ConfigError, match="no published table"):
        listing("recipes", ["rc49"])
    with pytest.raises(ConfigError, match="list settings, got gankd list models cnn8"):
        listing("models", ["cnn8"])


def test_inputs_are_listed_as_the_losses_name_them(gankd: Callable[..., Outcome]) -> None:
    code, out, _ = gankd("list", "inputs", "--json")
    names = {row["name"] for row in json.loads(out)["inputs"]}
    assert code == 0
    assert {name for found in all_losses().values() for name in (*found.inputs, *found.build_inputs)} <= names
    assert "(N, K) logits" in gankd("list", "inputs")[1]


def test_models_and_recipes_are_listed() -> None:
    found = listing("models")
    models = {row["name"]: row for row in found.rows}
    assert set(models) == set(ZOO)
    net = build_net("cnn8", in_channels=3, image_size=32, num_outputs=10, seed=0)
    assert models["cnn8"]["parameters"] == sum(p.numel() for p in net.parameters())
    by_hand = 9 * (3 * 8 * 32**2 + 8 * 16 * 16**2 + 16 * 32 * 8**2 + 32 * 32 * 4**2) + 32 * 10
    assert models["cnn8"]["multiply_adds"] == by_hand
    assert all(len(line) <= 120 for line in found.text.splitlines())
    assert all(f"\n{name} " in found.text for name in ZOO)
    assert {row["name"] for row in listing("recipes").rows} == set(RECIPES)


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
    assert "draws=1, policy=fresh" in out
    assert "policy=best" in out


def test_every_architecture_of_generators_is_listed() -> None:
    found = listing("generators")
    rows = {row["name"]: row for row in found.rows}
    assert list(rows) == list(ARCHITECTURES)
    assert rows["biggan"]["parameters"] == {"size": 32, "generator": 4_304_387, "discriminator": 4_207_361}
    text = found.text
    assert max(map(len, text.splitlines())) <= 120
    for row in rows.values():
        assert row["name"] in text
        assert not row["preset"] or callable(getattr(gan_published, row["preset"]))
