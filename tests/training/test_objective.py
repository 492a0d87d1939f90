"""Sums of losses: text and Python give the same, weights follow simple rules, nothing in the text is executed."""

import math
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from gankd.errors import ConfigError
from gankd.losses.distillation import loss
from gankd.tasks import Classification, Regression
from gankd.training.losses import all_losses
from gankd.training.objective import Objective, term
from gankd.virtual import Source


def weights(text: str) -> dict[str, float]:
    return {item.loss.name: item.coefficient for item in Objective.parse(text).terms}


def test_text_and_python_are_the_same_expression() -> None:
    assert Objective.parse("KD(T=4) + 0.8*CRD") == term("KD", T=4) + 0.8 * term("CRD")
    assert Objective.parse("2*(FitNet(layer=-1) + AT)") == 2 * (term("FitNet", layer=-1) + term("AT"))


@pytest.mark.parametrize("text", ["KD(T=4) + 0.8*CRD", "0.1*CE + 0.9*KD(T=2, standardise=True)", "AT + RKD + AT(p=1)"])
def test_what_is_printed_reads_back_as_the_same(text: str) -> None:
    objective = Objective.parse(text)
    assert [i.coefficient for i in Objective.parse(str(objective)).terms] == [i.coefficient for i in objective.terms]
    assert str(Objective.parse(str(objective))) == str(objective)


def test_a_number_replaces_the_published_weight_and_numbers_multiply() -> None:
    assert weights("AT") == {"AT": 1000.0}
    assert weights("2*AT") == {"AT": 2.0}
    assert weights("AT*2") == {"AT": 2.0}
    assert weights("3*(2*AT + KD)") == {"AT": 6.0, "KD": 3.0}
    assert weights("0*SP") == {"SP": 0.0}


def test_for_values_losses_that_do_not_shrink_with_the_label_loss_weigh_a_hundredth() -> None:
    values, classes = Regression(low=0, high=1), Classification(num_classes=3)
    text = "KD + AT + 0.8*CRD + CRD + 1*AB + AB + DML"
    assert str(Objective.parse(text).for_task(classes)) == (
        "Label + KD + 1000*AT + 0.8*CRD + 0.8*CRD + 1*AB + 1*AB + DML"
    )
    resolved = Objective.parse(text).for_task(values)
    assert str(resolved) == "Label + KD + 10*AT + 0.8*CRD + 0.008*CRD + 1*AB + 0.01*AB + DML"
    assert Objective.parse(str(resolved)).for_task(values) == resolved  # what is stored says what was in force


def test_the_label_loss_joins_only_where_none_is_named() -> None:
    assert str(Objective.parse("0.5*KD").complete) == "Label + 0.5*KD"
    for text in ("0.1*CE + 0.9*KD", "LS(epsilon=0.2) + KD"):
        assert Objective.parse(text).complete == Objective.parse(text)
    assert Objective.parse("0.1*CE + 0.9*KD").distilling == Objective.parse("0.9*KD")


def test_terms_of_one_loss_have_names_of_their_own() -> None:
    assert Objective.parse("AT(p=1) + KD + AT(p=2)").labels == ("AT-1", "KD", "AT-2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read; write for example"),
        ("KD +", "cannot be read"),
        ("KDD", "no loss 'KDD'; did you mean"),
        ("0.5", "is a number, expected a sum of losses"),
        ("KD + 1", "adds a number to a loss"),
        ("KD * AT", "multiplies two losses"),
        ("KD - AT", "subtracts; weights must be at least 0"),
        ("KD(T=4, T=5)", "KD gets T twice"),
        ("KD(T=1e999)", "KD: T must be finite, got inf"),
        ("KD(T={[1]:2})", "must be a number, text or list"),
        ("1" + "0" * 400 + "*KD", "must be a number of at least 0, got inf"),
        ("kd", "no loss 'kd'; did you mean"),
        ("-1*KD", "subtracts; weights must be at least 0"),
        ("1e999*KD", "must be a number of at least 0, got inf"),
        ("KD(4)", r"settings of KD are written NAME=VALUE, as in KD\(T=4\)"),
        ("KD(**{'T': 4})", "settings of KD are written NAME=VALUE"),
        ("KD(temperature=4)", "loss KD has no setting 'temperature'; known: T, standardise"),
        ("KD(T='hot')", "KD: T must be of the kind of its default 4.0, got 'hot'"),
        ("KD(T=True)", "KD: T must be of the kind of its default 4.0, got True"),
        ("KD(T=open)", "must be a number, text or list"),
        ("__import__('os').getcwd()", "cannot be read"),
        ("(lambda: KD)()", "cannot be read"),
        ("no_such_module:KD", "cannot import 'no_such_module'"),
        ("math:pi", "no loss 'pi' in math; mark the function with"),
        ("(" * 3000 + "KD" + ")" * 3000, "cannot be read"),
    ],
)
def test_what_is_no_such_expression_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Objective.parse(text)
    assert "\n" not in str(caught.value)


def test_nothing_in_the_text_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for text in (f"KD(T=open({str(mark)!r}, 'w'))", f"open({str(mark)!r}, 'w')", f"KD(T=[open({str(mark)!r}, 'w')])"):
        with pytest.raises(ConfigError):
            Objective.parse(text)
    assert not mark.exists()


def test_losses_of_the_other_task_are_refused() -> None:
    with pytest.raises(ConfigError, match="loss DKD is for classification and the labels are for regression"):
        Objective.parse("KD + DKD").check(Regression(low=0, high=1))
    with pytest.raises(ConfigError, match="loss L1 is for regression and the labels are for classification"):
        Objective.parse("L1").check(Classification(num_classes=3))
    Objective.parse("KD + AT").check(Regression(low=0, high=1))


def test_a_loss_of_your_own_joins_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "from gankd.losses.distillation import loss\n"
        "@loss('Margin', weight=0.25)\n"
        "def margin(student_logits, teacher_logits, *, width=1.0):\n"
        "    return (student_logits - teacher_logits).abs().mean(1)\n"
    )
    (tmp_path / "losses_of_mine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    objective = Objective.parse("KD + losses_of_mine:margin(width=2.0)")
    assert [item.coefficient for item in objective.terms] == [1.0, 0.25]
    assert objective.terms[1].loss.inputs == ("student_logits", "teacher_logits")
    assert objective.terms[1].loss.tasks == ("classification",)
    assert Objective.parse("losses_of_mine.margin").terms[0].loss == objective.terms[1].loss
    assert str(objective) == "KD + losses_of_mine:margin(width=2.0)"
    assert Objective.parse(str(objective)).terms[1].loss == objective.terms[1].loss
    assert str(term(objective.terms[1].loss.make)) == "losses_of_mine:Margin"
    with pytest.raises(ConfigError, match="no loss 'margn' in losses_of_mine; did you mean Margin"):
        Objective.parse("losses_of_mine:margn")


@loss("Odd")
def odd(student_logit: Tensor) -> Tensor:
    return student_logit


@loss("Starless")
def starless(student_logits: Tensor, width: float = 1.0) -> Tensor:
    return width * student_logits.sum(1)


def test_an_input_of_unknown_name_is_refused_with_what_to_write() -> None:
    with pytest.raises(ConfigError, match="loss Odd reads 'student_logit', .* did you mean student_logits"):
        term(odd)
    with pytest.raises(ConfigError, match=r"loss Starless reads 'width', .* a setting comes after a bare \*"):
        term(starless)


def test_python_sums_of_many_terms_and_what_is_no_sum() -> None:
    assert sum([term("KD"), term("AT")]) == term("KD") + term("AT")
    other: Any
    for other in (1, "2", term("AT")):
        with pytest.raises(TypeError):
            _ = term("KD") + other if other == 1 else term("KD") * other


def test_every_loss_says_what_a_user_must_know() -> None:
    for name, found in all_losses().items():
        assert found.name == name
        assert 10 <= len(found.summary) <= 90, name
        assert found.paper or found.is_label_loss or name in ("L1", "L2"), name
        assert math.isfinite(found.weight), name
        assert found.inputs, name


# --- whom a loss reads --------------------------------------------------------------------------------------


def test_behind_at_stands_whom_a_loss_reads() -> None:
    found = Objective.parse('0.5*KD(T=2)@virtual(draws=8, policy="best") + CRD + (Label + DKD)@table')
    sources = [None if item.source is None else str(item.source) for item in found.terms]
    assert sources == ["virtual(draws=8, policy='best')", None, None, "table"]
    assert Objective.parse(str(found)) == found
    assert found.terms[0].reads[1] == "teacher_outputs@virtual(draws=8, policy='best')"
    assert found.labels == ("KD@virtual", "CRD", "Label", "DKD@table")
    assert found.needs_teacher  # CRD does
    assert found.needs_virtual
    assert {str(source): names for source, names in found.sources.items()}["table"] == {"teacher_logits@table"}
    assert Objective.parse("KD@teacher") == Objective.parse("KD")
    assert not Objective.parse("KD@table").needs_teacher
    assert not Objective.parse("KD@tf").needs_virtual
    assert term("KD", T=2) @ Source("table") == Objective.parse("KD(T=2)@table")
    assert 2 * term("KD") @ Source("table") == Objective.parse("2*KD@table")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("FitNet@virtual", "FitNet reads (student|teacher)_features, which only the teacher itself has"),
        ("SRRL@table", "reads teacher_.*, which only the teacher itself has"),
        ("LS@virtual", "the loss LS reads no teacher, so @virtual cannot replace one"),
        ("2@virtual", "puts @ after a number"),
        ("KD@2", "expected one of teacher, virtual, table, bank, gauss, smooth, tf after @"),
        ("KD@KD@table", "no source @KD"),
        ("KD@virtual(draws=[1])", "draws must be of the kind of its default 1"),
        ("KD@virtual(draws=2, draws=3)", "virtual gets draws twice"),
    ],
)
def test_sources_that_cannot_be_read(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Objective.parse(text)


def test_a_temperature_far_below_that_of_the_draws_is_pointed_out() -> None:
    assert Objective.parse("KD(T=2)@virtual + KD(T=1) + DKD(T=1)@tf").cautions(4.0) == []
    (caution,) = Objective.parse("KD(T=4)@virtual + SoftTargets(T=1)@table").cautions(4.0)
    assert caution.startswith(
        "SoftTargets(T=1)@table reads at T=1 what is sampled at T=4: errors of the samples count 4 times"
    )
