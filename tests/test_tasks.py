"""The two tasks: losses and scores by hand, laws of label sampling, edges of groups, and what is refused."""

import json
import math

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError, DataError, ModelError
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task, task_from_dict, task_to_dict

CLASSES = Classification(num_classes=3, class_names=("cat", "dog", "owl"))
AGES = Regression(low=20.0, high=60.0, unit="years")

# softmax of the rows: (1/2, 1/4, 1/4) and (1/10, 1/10, 8/10)
LOGITS = torch.tensor([[2.0, 1.0, 1.0], [1.0, 1.0, 8.0]]).log()
PROBS = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])


def test_classification_scores_by_hand() -> None:
    labels = torch.tensor([0, 1])
    expected = torch.tensor([math.log(2), math.log(10)])
    torch.testing.assert_close(CLASSES.loss(LOGITS, labels), expected)
    torch.testing.assert_close(CLASSES.disagreement(LOGITS, labels), expected)
    assert CLASSES.predict(LOGITS).tolist() == [0, 2]
    found = CLASSES.metrics(LOGITS, labels)
    assert found == {"top1": 50.0, "nll": pytest.approx((math.log(2) + math.log(10)) / 2)}


def votes(*counts: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Logits and labels of (label, answer, number) each, for two classes."""
    labels, answers = (
        torch.tensor([pair[side] for pair in counts for _ in range(pair[2])], dtype=torch.long) for side in (0, 1)
    )
    return torch.nn.functional.one_hot(answers, 2).float(), labels


def test_balanced_accuracy_is_the_mean_over_the_classes_that_occur() -> None:
    two = Classification(num_classes=2)
    assert two.detail(*votes((0, 0, 72), (0, 1, 18), (1, 1, 5), (1, 0, 5))) == {"balanced": pytest.approx(65.0)}
    assert two.detail(*votes((1, 1, 3), (1, 0, 1))) == {"balanced": pytest.approx(75.0)}
    assert AGES.detail(torch.tensor([30.0]), torch.tensor([30.0])) == {}


@pytest.mark.parametrize(
    ("counts", "better"),
    [
        (((0, 0, 90), (1, 1, 10)), True),  # perfect, and yet only 1.11 times the constant guess
        (((0, 0, 90), (1, 0, 10)), False),  # the constant guess
        (((0, 0, 970), (1, 1, 10), (1, 0, 20)), True),  # a third of the errors are gone
        (((0, 0, 80), (0, 1, 10), (1, 1, 9), (1, 0, 1)), True),  # trained with class weights: top-1 below the constant
        (((0, 0, 52), (0, 1, 48), (1, 1, 51), (1, 0, 49)), False),  # two balanced classes, almost at random
        (((0, 0, 60), (0, 1, 40), (1, 1, 60), (1, 0, 40)), True),
        (((0, 1, 90), (1, 0, 10)), False),  # all wrong
    ],
)
def test_chance_is_judged_by_what_a_constant_guess_leaves_over(
    counts: tuple[tuple[int, int, int], ...], better: bool
) -> None:
    assert Classification(num_classes=2).beats_chance(*votes(*counts)) is better


@pytest.mark.parametrize("num_classes", [10, 100, 1000])
def test_many_classes_need_a_quarter_more_right_answers(num_classes: int) -> None:
    task, labels = Classification(num_classes=num_classes), torch.arange(num_classes).repeat(20)
    for share, better in ((1.1, False), (1.5, True)):
        answers = (labels + 1) % num_classes
        right = torch.randperm(len(labels), generator=rng(0, "right"))[: int(share * 20)]
        answers[right] = labels[right]
        assert task.beats_chance(torch.nn.functional.one_hot(answers, num_classes), labels) is better


def test_values_must_leave_less_than_nine_tenths_of_the_error_of_a_constant_guess() -> None:
    labels = torch.linspace(20, 60, 41)
    for error, better in ((0.95, False), (0.85, True)):
        assert AGES.beats_chance(40 + (1 - error) * (labels - 40), labels) is better


def test_soft_labels_weigh_the_classes() -> None:
    soft = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]])
    expected = torch.tensor([math.log(2), 0.5 * math.log(10) + 0.5 * math.log(1.25)])
    torch.testing.assert_close(CLASSES.loss(LOGITS, soft), expected)


def test_regression_scores_by_hand() -> None:
    outputs, labels = torch.tensor([30.0, 50.0]), torch.tensor([34.0, 30.0])
    torch.testing.assert_close(AGES.loss(outputs, labels), torch.tensor([0.01, 0.25]))  # (4/40)^2, (20/40)^2
    assert AGES.disagreement(outputs, labels).tolist() == [4.0, 20.0]
    beyond = torch.tensor([AGES.low - 7.0, AGES.high + 7.0])  # clipped to the range, then compared
    assert AGES.disagreement(beyond, torch.tensor([AGES.low, AGES.low])).tolist() == [0.0, AGES.span]
    assert AGES.adjust(beyond, labels, "prediction").tolist() == [AGES.low, AGES.high]
    assert torch.equal(AGES.predict(outputs), outputs)
    found = AGES.metrics(outputs, labels)
    assert found == {"mae": 12.0, "rmse": pytest.approx(math.sqrt((16 + 400) / 2))}


def test_chance_is_the_best_constant_guess() -> None:
    labels = torch.tensor([2, 2, 1, 2, 0])
    assert CLASSES.chance(labels) == pytest.approx(60.0)
    ages = torch.tensor([20.0, 21.0, 25.0, 60.0, 59.0])
    guesses = torch.linspace(20, 60, 4001)
    best = (ages - guesses[:, None]).abs().mean(1).min().item()
    assert AGES.chance(ages) == pytest.approx(best, abs=1e-5)


def test_adjust() -> None:
    labels = torch.tensor([1, 1])
    assert torch.equal(CLASSES.adjust(LOGITS, labels, "none"), labels)
    assert CLASSES.adjust(LOGITS, labels, "argmax").tolist() == [0, 2]
    assert CLASSES.adjust(LOGITS, labels, "prediction").tolist() == [0, 2]
    torch.testing.assert_close(CLASSES.adjust(LOGITS, labels, "soft"), PROBS)
    outputs, ages = torch.tensor([34.9]), torch.tensor([20.0])
    assert torch.equal(AGES.adjust(outputs, ages, "none"), ages)
    assert torch.equal(AGES.adjust(outputs, ages, "prediction"), outputs)  # 34.9 years stay 34.9
    assert CLASSES.default_adjust == "none"
    assert AGES.default_adjust == "prediction"


def test_normalise_and_back() -> None:
    labels = torch.tensor([20.0, 30.0, 60.0, 70.0])
    torch.testing.assert_close(AGES.normalise(labels), torch.tensor([0.0, 0.25, 1.0, 1.25]))
    torch.testing.assert_close(AGES.denormalise(AGES.normalise(labels)), labels)
    offset, factor = map(torch.tensor, AGES.output_scale)
    torch.testing.assert_close(offset + factor * AGES.normalise(labels), labels)
    assert CLASSES.output_scale == (0.0, 1.0)


def test_groups_are_equal_bins_with_both_ends() -> None:
    edge = 40.0 / 12
    labels = torch.tensor([20.0, 20 + 0.99 * edge, 20 + 1.01 * edge, 39.99, 40.01, 60 - 0.01 * edge, 60.0])
    assert AGES.groups(labels).tolist() == [0, 0, 1, 5, 6, 11, 11]
    assert AGES.groups(torch.tensor([19.9999, 60.0001])).tolist() == [0, 11]  # within check_labels' slack
    assert AGES.group_name(0) == "20 to 23.3"
    assert AGES.group_name(11) == "56.7 to 60"
    assert AGES.label_name(torch.tensor(34.9)) == "34.9"
    assert torch.equal(CLASSES.groups(torch.tensor([2, 0])), torch.tensor([2, 0]))
    assert CLASSES.num_groups == CLASSES.head_size == 3
    assert CLASSES.label_name(torch.tensor(2)) == "owl"
    assert Classification(num_classes=3).group_name(2) == "2"


@pytest.mark.parametrize("how", ["balanced", "uniform"])
def test_balanced_classes_come_equally_often(how: str) -> None:
    real = torch.tensor([0] * 50 + [1, 2])
    labels = CLASSES.sample_labels(301, real, how, rng(0, "l"))  # type: ignore[arg-type]
    counts = labels.bincount(minlength=3)
    assert counts.sum() == 301
    assert counts.max() - counts.min() <= 1
    assert CLASSES.sample_labels(300, real, "balanced", rng(1, "l")).bincount().tolist() == [100, 100, 100]
    # a class that training lacks is no label for a generator that never saw it
    assert CLASSES.sample_labels(300, real[:-1], "balanced", rng(1, "l")).bincount().tolist() == [150, 150]
    assert not torch.equal(labels[:30], labels[:30].sort().values)  # any part of a pool is mixed


def law(task: Task, real: Tensor, how: str, value: float) -> float:
    labels = task.sample_labels(20_000, real, how, rng(2, "l"))  # type: ignore[arg-type]
    assert labels.dtype == task.label_dtype
    return (labels == value).double().mean().item()


def test_laws_of_label_sampling() -> None:
    classes = torch.tensor([0] * 7 + [1] * 2 + [2])
    for label, share in enumerate((0.7, 0.2, 0.1)):
        assert law(CLASSES, classes, "empirical", label) == pytest.approx(share, abs=0.02)
    ages = torch.tensor([20.0] * 8 + [30.0, 55.5])
    for age, share in ((20.0, 0.8), (30.0, 0.1), (55.5, 0.1)):
        assert law(AGES, ages, "empirical", age) == pytest.approx(share, abs=0.02)
        assert law(AGES, ages, "balanced", age) == pytest.approx(1 / 3, abs=0.02)


def test_uniform_scalar_labels_fill_the_range() -> None:
    labels = AGES.sample_labels(20_000, torch.tensor([30.0]), "uniform", rng(3, "l"))
    assert labels.min() >= 20
    assert labels.max() <= 60
    assert labels.mean().item() == pytest.approx(40.0, abs=0.5)
    assert labels.std().item() == pytest.approx(40 / math.sqrt(12), abs=0.3)
    assert len(labels.unique()) > 10_000


def test_labels_outside_the_task_are_refused() -> None:
    CLASSES.check_labels(torch.tensor([0, 2]))
    with pytest.raises(DataError, match=r"class label 3 is outside 0\.\.2 \(2 of 4 labels\)"):
        CLASSES.check_labels(torch.tensor([0, 3, -1, 2]))
    AGES.check_labels(torch.tensor([20.0, 60.0]))
    with pytest.raises(DataError, match=r"label 61 is outside \[20, 60\] years \(1 of 2 labels\)"):
        AGES.check_labels(torch.tensor([61.0, 40.0]))
    with pytest.raises(DataError, match="2 of 3 labels are not finite"):
        AGES.check_labels(torch.tensor([math.nan, math.inf, 40.0]))


def test_outputs_of_another_shape_are_refused() -> None:
    CLASSES.check_outputs(torch.zeros(5, 3), 5, "net")
    AGES.check_outputs(torch.zeros(5), 5, "net")
    with pytest.raises(ModelError, match=r"net gives outputs of shape \(5, 4\) for 5 images; .* needs \(5, 3\)"):
        CLASSES.check_outputs(torch.zeros(5, 4), 5, "net")
    with pytest.raises(ModelError, match=r"net gives outputs of shape \(5, 2\) for 5 images; .*\(5,\)"):
        AGES.check_outputs(torch.zeros(5, 2), 5, "net")


@pytest.mark.parametrize("task", [CLASSES, AGES])
def test_tasks_survive_json(task: Task) -> None:
    assert task_from_dict(json.loads(json.dumps(task_to_dict(task)))) == task


def test_tasks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2 classes, got 1"):
        Classification(num_classes=1)
    with pytest.raises(ConfigError, match=r"low < high, got \[3.0, 3.0\]"):
        Regression(low=3.0, high=3.0)
    with pytest.raises(ConfigError, match="classification or regression, got 'ranking'"):
        task_from_dict({"kind": "ranking"})


def test_a_distribution_over_labels_has_the_classes_or_the_bins() -> None:
    assert CLASSES.has_classes
    assert not AGES.has_classes
    assert [task.distribution_size(50) for task in (CLASSES, AGES)] == [3, 50]
    assert [task.description for task in (CLASSES, AGES)] == ["3 classes", "values in [20, 60] years"]
    assert Regression(low=0.0, high=0.5).description == "values in [0, 0.5]"


def test_labels_that_occur_in_words_and_for_scripts() -> None:
    assert CLASSES.describe(torch.tensor([0, 1])) == "3 classes"
    assert AGES.describe(torch.tensor([20.0, 31.5, 31.5, 60.0])) == "values from 20 to 60 years, 3 different"
    inner = "values from 30 to 40 years, 2 different; range 20 to 60"
    assert AGES.describe(torch.tensor([40.0, 30.0])) == inner
    assert CLASSES.facts == {"task": "classification", "range": None, "classes": 3}
    assert AGES.facts == {"task": "regression", "range": [20, 60], "classes": None}


def test_histograms_count_every_label_once() -> None:
    assert CLASSES.histogram(torch.tensor([0, 2, 2]), bins=7) == [("cat", 1), ("dog", 0), ("owl", 2)]
    found = AGES.histogram(torch.tensor([20.0, 29.9, 30.0, 60.0]), bins=4)
    assert found == [("20 to 30", 2), ("30 to 40", 1), ("40 to 50", 0), ("50 to 60", 1)]


def test_absent_classes_and_names_of_labels() -> None:
    assert CLASSES.absent(torch.tensor([2, 0, 2])) == [1]
    assert AGES.absent(torch.tensor([30.0])) == []
    assert CLASSES.label_names == ("cat", "dog", "owl")
    assert Classification(num_classes=2).label_names == ("0", "1")
    assert AGES.label_names == ()
    assert CLASSES.reading == {"task": "classification"}
    assert AGES.reading == {"task": "regression", "low": 20.0, "high": 60.0}


def test_noise_on_labels_by_hand() -> None:
    labels = torch.arange(300) % 3
    at = torch.arange(0, 300, 3)  # all of class 0
    noisy = CLASSES.add_noise(labels, at, 0.4, rng(0, "noise"))
    changed = noisy != labels
    assert changed[at].sum() == 40
    assert changed.sum() == 40
    assert {1, 2} == set(noisy[changed].tolist())
    assert torch.equal(CLASSES.add_noise(labels, at, 0.0, rng(0, "noise")), labels)
    ages = torch.full((4000,), 40.0)
    shaken = AGES.add_noise(ages, torch.arange(4000), 0.1, rng(0, "noise"))
    assert (shaken - ages).std().item() == pytest.approx(4.0, rel=0.05)  # a tenth of 40 years
    assert AGES.add_noise(ages + 19, torch.arange(4000), 0.1, rng(0, "noise")).max() == 60


def test_labels_as_people_write_them_and_back() -> None:
    pets = Classification(num_classes=3, class_names=("cat", "dog", "7"))
    labels = torch.tensor([1, 0, 2])
    assert pets.written(labels).tolist() == ["dog", "cat", "7"]
    assert torch.equal(pets.labels_from(pets.written(labels).tolist(), 1), labels)
    years = torch.tensor([20.0, 34.9])
    assert torch.equal(AGES.labels_from([str(value) for value in AGES.written(years).tolist()], 1), years)
    assert AGES.labels_from(["20:60:20"], 3).tolist() == [20, 40, 60]
    with pytest.raises(ConfigError, match="is more than 2 labels"):
        AGES.labels_from(["20:60:20"], 2)
    with pytest.raises(ConfigError, match=r"61 is outside \[20, 60\] years"):
        AGES.labels_from(["61"], 1)


def test_only_values_can_be_swept_through() -> None:
    assert CLASSES.sweep(5) is None
    values = AGES.sweep(5)
    assert values is not None
    assert values.tolist() == [20, 30, 40, 50, 60]


def test_accuracy_per_class_by_hand() -> None:
    task = Classification(num_classes=3, class_names=("a", "b", "c"))
    outputs = torch.eye(3)[torch.tensor([0, 0, 1, 0, 1])]
    labels = torch.tensor([0, 0, 0, 1, 1])
    assert task.by_class(outputs, labels) == pytest.approx({"a": 200 / 3, "b": 50.0})  # there is no image of c
    assert task.detail(outputs, labels) == pytest.approx({"balanced": (200 / 3 + 50) / 2})
    assert AGES.by_class(torch.tensor([1.0]), torch.tensor([2.0])) == {}
