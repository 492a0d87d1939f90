"""`gankd advise`: a probe whose stages the run goes on with, a forecast and a command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gankd as package
from gankd.bench.advice import Forecast, Probe
from gankd.commands import advise, gan
from gankd.commands.advise import Advice
from gankd.config import override
from gankd.recipes import RECIPES
from gankd.recipes.generated import load_generator
from gankd.tasks import Regression

Outcome = tuple[int, str, str]


def test_a_run_goes_on_from_the_probe(tiny: tuple[str, ...], tmp_path: Path, gankd: Callable[..., Outcome]) -> None:
    recipe = override(RECIPES["rotated-digits"](), (*tiny, "gan.health_checks=3"))
    found = advise(recipe, tmp_path / "probed", workers=2)
    probe, gain = found.probe, found.gain
    assert probe.per_label == pytest.approx(80 / 12)
    assert (probe.length, probe.distance > 0, probe.error > 0) == (4, True, True)
    assert gain[1] < gain[0] < gain[2]
    assert "errors on validation images" in found.text
    assert json.loads((tmp_path / "probed" / "advice.json").read_text())["gain"] == gain[0]
    (stage,) = (tmp_path / "probed").glob("gan-*")
    assert not (stage / "done.json").exists()

    # The generator that was begun becomes the same as one that was trained at once.
    gan(recipe, tmp_path / "probed")
    gan(recipe, tmp_path / "plain")
    states = [
        load_generator(next((tmp_path / name).glob("gan-*/generator.safetensors"))).state_dict()  # type: ignore[union-attr]
        for name in ("probed", "plain")
    ]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert advise(recipe, tmp_path / "probed").probe == probe  # from what is there

    code, out, err = gankd("advise", tmp_path / "probed", "--quiet")
    assert (code, err) == (0, "")
    assert f"gankd student {tmp_path / 'probed'} --search" in out or f"gankd run {tmp_path / 'probed'}" in out
    assert package.advise is advise


def advice(gain: float, half: float, cells: int = 30, teacher: float = 4.0) -> Advice:
    probe = Probe(
        set="own",
        error=5.0,
        on_train=1.0,
        longer=4.5,
        length=4,
        kd=4.8,
        teacher=teacher,
        generated=9.0,
        variety=0.8,
        per_label=25.0,
        distance=0.1,
        imbalance=1.0,
    )
    forecast = Forecast(gain, gain - half, gain + half, ("images per label (for)",))
    commands = {"with": "gankd run runs/own", "without": "gankd student runs/own --search"}
    return Advice(forecast, probe, Regression(low=0, high=90, unit="degrees"), cells, "nearest.", commands, 600.0)


def test_the_verdict_follows_the_interval() -> None:
    sure = advice(0.2, 0.1)
    assert sure.gain == pytest.approx((1.0, 0.5, 1.5))
    assert "will probably add 1.00 [0.50, 1.50] degrees to the strongest control." in sure.text.replace("+", "")
    assert sure.text.endswith("Use: gankd run runs/own (about 10m00s here)")
    assert "may add something, which is not certain" in advice(0.2, 0.3).text
    nothing = advice(-0.1, 0.05)
    assert "will probably add nothing" in nothing.text
    assert nothing.text.endswith("Train longer with augmentation instead: gankd student runs/own --search")
    few = advice(0.2, 0.1, cells=3)
    assert "Too few finished cells of the map for a forecast (3 of 10)" in few.text
    assert not few.pays
    assert "The teacher is not better than its student" in advice(0.2, 0.1, teacher=5.5).text
    assert "teacher is not better" not in sure.text
    assert sure.to_dict()["command"] == "gankd run runs/own"
