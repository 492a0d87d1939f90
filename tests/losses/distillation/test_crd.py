"""CRD against loops over images and memory, for classes and values; what the memory learns; its constant Z."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError, DataError
from gankd.losses.distillation.crd import CRD
from gankd.seeds import rng

N, M, DIM = 4, 12, 3


def randn(what: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(0, what), dtype=torch.float64)


def dataset_labels(kind: str) -> Tensor:
    if kind == "classes":
        return torch.randint(3, (M,), generator=rng(0, "labels"))
    return torch.rand(M, generator=rng(0, "labels"), dtype=torch.float64)


def built(kind: str, **settings: Any) -> tuple[CRD, dict[str, Any]]:
    """A loss with filled memory, and a batch."""
    labels, index = dataset_labels(kind), torch.tensor([7, 0, 11, 3])
    inputs = {"student_embedding": randn("s", N, 2), "teacher_embedding": randn("t", N, 5)}
    torch.manual_seed(0)
    settings = {"dim": DIM, **settings}
    crd = CRD(inputs["student_embedding"], inputs["teacher_embedding"], labels, **settings).double()
    crd.log_z.copy_(torch.tensor([1.0, 3.0]).view(2, 1, 1))
    crd.seen[::2] = 1
    return crd, {**inputs, "labels": labels[index], "index": index, "generator": rng(0, "negatives")}


Rows = list[list[float]]


def unit(rows: Tensor) -> Rows:
    return [[value / math.hypot(*row) for value in row] for row in rows.detach().tolist()]


def rows(crd: CRD, inputs: dict[str, Any]) -> list[Rows]:
    return [unit(crd.student(inputs["student_embedding"])), unit(crd.teacher(inputs["teacher_embedding"]))]


def plain(crd: CRD, inputs: dict[str, Any], entries: list[int], positives: list[Rows] | None = None) -> list[float]:
    a = rows(crd, inputs)
    b = positives or a
    memory, labels = crd.memory.tolist(), crd.dataset_labels.tolist()
    total = []
    for i, label in enumerate(inputs["labels"].tolist()):
        value = 0.0
        for side in (0, 1):

            def h(other: list[float], side: int = side, i: int = i) -> float:
                dot = sum(x * y for x, y in zip(a[side][i], other, strict=True))
                return math.exp(dot / crd.tau - crd.log_z.flatten()[side].item())

            if crd.dataset_labels.is_floating_point():
                w = [math.exp(-crd.nu * (label - labels[k]) ** 2) for k in entries]
                v = [1 - x for x in w]
                w = [x * crd.seen[k].item() for x, k in zip(w, entries, strict=True)]
            else:
                v = [float(label != labels[k]) for k in entries]
                w = [0.0] * len(entries)
            noise = sum(v) / M
            h_k = [h(memory[side][k]) for k in entries]
            positive = math.log(h(b[1 - side][i]) / (h(b[1 - side][i]) + noise))
            positive += sum(x * math.log(y / (y + noise)) for x, y in zip(w, h_k, strict=True))
            value -= positive / (1 + sum(w))
            value -= sum(x * math.log(noise / (y + noise)) for x, y in zip(v, h_k, strict=True))
        total.append(value)
    return total


@pytest.mark.parametrize("kind", ["classes", "values"])
@pytest.mark.parametrize("negatives", [5, 20])
def test_crd_follows_its_formula(kind: str, negatives: int) -> None:
    # Red when a sign of a softplus is flipped, when entries of the own label count as negatives, when K replaces K_i or
    # M its inverse, when a network is its own positive, and (values) when the vicinity of images not seen yet counts.
    crd, inputs = built(kind, negatives=negatives, vicinity=1.5)
    entries = list(range(M))
    if negatives < M:
        entries = torch.randint(M, (negatives,), generator=rng(0, "negatives")).tolist()
    expected = torch.tensor(plain(crd.eval(), inputs, entries), dtype=torch.float64)
    torch.testing.assert_close(crd(**inputs), expected)


def test_two_images_by_hand() -> None:
    labels = torch.tensor([0, 1])
    crd = CRD(torch.zeros(4, 1), torch.zeros(4, 1), labels, dim=1, tau=1.0).eval()
    for layer in (crd.student, crd.teacher):
        layer.weight.data.fill_(1)
        layer.bias.data.zero_()
    crd.memory[0], crd.memory[1] = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [1.0]])
    crd.log_z.zero_()
    one = torch.ones(2, 1)
    loss = crd(one, one, labels, labels, rng(0))
    e, noise = math.e, 1 / 2  # one negative of two images
    own = -2 * math.log(e / (e + noise))
    opposite, alike = -math.log(noise / (1 / e + noise)), -math.log(noise / (e + noise))
    torch.testing.assert_close(loss, torch.tensor([own + opposite + alike, own + 2 * alike]))


def test_images_of_the_own_class_say_nothing_and_the_order_of_the_batch_does_not_matter() -> None:
    crd, inputs = built("classes")
    crd.eval()
    loss, order = crd(**inputs), torch.tensor([2, 0, 3, 1])
    moved = {name: value if name == "generator" else value[order] for name, value in inputs.items()}
    torch.testing.assert_close(crd(**moved), loss[order])
    crd.memory[:, crd.dataset_labels == inputs["labels"][0]] *= -1
    changed = crd(**inputs) - loss
    assert changed[0] == 0
    assert changed[inputs["labels"] != inputs["labels"][0]].abs().min() > 0.01


def test_a_vicinity_too_narrow_for_two_labels_makes_every_other_image_a_negative() -> None:
    crd, inputs = built("values", vicinity=1e-6)
    as_classes, _ = built("classes")
    as_classes.load_state_dict(crd.state_dict())
    as_classes.dataset_labels = torch.arange(M)
    crd.seen.zero_()  # or the own image's memory is a second positive
    expected = as_classes.eval()(**{**inputs, "labels": inputs["index"]})
    torch.testing.assert_close(crd.eval()(**inputs), expected)


def test_z_is_fixed_at_the_first_training_batch() -> None:
    # Red when Z is taken over one row, and when every batch sets it anew.
    crd, inputs = built("classes")
    crd.log_z.fill_(torch.nan)
    memory = crd.memory.clone()
    assert crd.eval()(**inputs).isfinite().all()
    assert crd.log_z.isnan().all()  # evaluation leaves no trace
    crd.train()(**inputs)
    a = rows(crd, inputs)
    for side in (0, 1):
        dots = torch.tensor(a[side], dtype=torch.float64) @ memory[side].T
        expected = M * (dots / 0.07).exp().mean()
        torch.testing.assert_close(crd.log_z[side].exp().squeeze(), expected)
    first = crd.log_z.clone()
    crd(**inputs)
    torch.testing.assert_close(crd.log_z, first, rtol=0, atol=0)
    resumed, _ = built("classes")
    resumed.load_state_dict(crd.state_dict())
    resumed.train()(**inputs)
    torch.testing.assert_close(resumed.log_z, first, rtol=0, atol=0)


def test_memory_mixes_in_the_mean_of_equal_indices_and_learns_in_training_only() -> None:
    # Red when old and new change places (momentum 0.8), when only one of equal indices counts, and when memory learns
    # before the loss is taken.
    crd, inputs = built("classes", momentum=0.8)
    inputs["index"] = torch.tensor([5, 2, 5, 9])
    before = crd.memory.clone()
    crd.eval()(**inputs)
    torch.testing.assert_close(crd.memory, before, rtol=0, atol=0)
    loss = crd(**inputs)
    torch.testing.assert_close(crd.train()(**inputs), loss, rtol=0, atol=0)
    for side, made in enumerate(reversed(rows(crd, inputs))):
        made_now = torch.tensor(made, dtype=torch.float64)
        for place, new in ((5, (made_now[0] + made_now[2]) / 2), (2, made_now[1]), (9, made_now[3])):
            mixed = 0.8 * before[side, place] + 0.2 * new
            torch.testing.assert_close(crd.memory[side, place], mixed / mixed.norm())
    untouched = [place for place in range(M) if place not in (2, 5, 9)]
    torch.testing.assert_close(crd.memory[:, untouched], before[:, untouched], rtol=0, atol=0)
    assert crd.seen[[2, 5, 9]].tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_three_steps_draw_from_the_generator_alone_and_learn(kind: str) -> None:
    def run() -> tuple[list[float], Tensor]:
        crd, inputs = built(kind, negatives=6)
        optimizer = torch.optim.SGD(crd.parameters(), 0.02)
        losses = []
        for step in range(3):
            torch.rand(step + 1)  # someone else's use of the global generator
            optimizer.zero_grad()
            loss = crd(**{**inputs, "generator": rng(0, "the same negatives")}).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, crd.memory

    losses, memory = run()
    again, same = run()
    assert losses == again
    assert torch.equal(memory, same)
    assert losses[0] > losses[1] > losses[2]
    torch.testing.assert_close(memory.norm(dim=2), torch.ones(2, M, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_crd_gradient_is_that_of_the_formula_with_positives_held_constant(kind: str) -> None:
    # Red when positives are not detached. No gradcheck, for it would let them move as well.
    crd, inputs = built(kind, tau=0.5)
    crd.eval()
    fixed = rows(crd, inputs)
    for name in ("student_embedding", "teacher_embedding"):
        embedding = inputs[name].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(crd(**{**inputs, name: embedding}).sum(), embedding)
        for place in range(embedding.numel()):
            sums = []
            for nudge in (1e-5, -1e-5):
                moved = inputs[name].clone()
                moved.view(-1)[place] += nudge
                sums.append(sum(plain(crd, {**inputs, name: moved}, list(range(M)), fixed)))
            assert gradient.flatten()[place].item() == pytest.approx((sums[0] - sums[1]) / 2e-5, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_rare_cases_stay_finite(kind: str) -> None:
    """All images of one label, embeddings of zero, and scores beyond what exp() holds in float32."""
    crd, inputs = built(kind, tau=0.005)
    crd, inputs = (
        crd.float(),
        {name: value.float() if name.endswith("ing") else value for name, value in inputs.items()},
    )
    inputs["student_embedding"][0] = 0
    crd.student.bias.data.zero_()
    crd.log_z.fill_(torch.nan)
    inputs["student_embedding"].requires_grad_()
    loss = crd(**{**inputs, "labels": crd.dataset_labels[:1].repeat(N)})
    loss.sum().backward()
    assert loss.isfinite().all()
    assert inputs["student_embedding"].grad.isfinite().all()
    crd.dataset_labels.fill_(crd.dataset_labels[0])
    assert crd(**{**inputs, "labels": crd.dataset_labels[:1].repeat(N)}).isfinite().all()


def test_memory_takes_what_the_docstring_says() -> None:
    crd = CRD(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(1000, dtype=torch.int64))
    assert crd.memory.numel() * crd.memory.element_size() == 2 * 1000 * 128 * 4
    assert sum(b.numel() * b.element_size() for b in crd.buffers()) < 1.02 * 2 * 1000 * 128 * 4


@pytest.mark.parametrize(
    "setting", [{"negatives": 0}, {"tau": 0.0}, {"momentum": 1.0}, {"dim": 0}, {"vicinity": -2.0}], ids=str
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"CRD: {next(iter(setting))} must"):
        built("classes", **setting)


def test_values_without_any_difference_are_refused() -> None:
    with pytest.raises(DataError, match="all training labels are equal"):
        CRD(torch.zeros(4, 2), torch.zeros(4, 2), torch.full((5,), 0.5))
