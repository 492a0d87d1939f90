"""Random numbers by name: the same for the same purpose, unrelated for others, and no memory from call to call."""

import math
from collections.abc import Callable

import pytest
import torch

from gankd.seeds import Batches, derive_seed, rng


def test_each_purpose_has_its_own_seed() -> None:
    purposes = [(seed, name, step) for seed in range(3) for name in ("gan d", "gan g") for step in range(50)]
    seeds = {derive_seed(seed, name, step) for seed, name, step in purposes}
    assert len(seeds) == len(purposes)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_seeds_stay_as_they_were_in_earlier_versions() -> None:
    assert derive_seed(0, "gan d", 7) == 63754084474463716  # a stored run would not be resumed as it began
    assert rng(0, "z").initial_seed() == derive_seed(0, "z")


def test_generators_are_fresh_and_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first = torch.rand(5, generator=rng(3, "noise", 1))
    assert torch.equal(first, torch.rand(5, generator=rng(3, "noise", 1)))
    assert not torch.equal(first, torch.rand(5, generator=rng(3, "noise", 2)))
    Batches(10, 4, 0, "x")(3)
    assert torch.equal(before, torch.get_rng_state())


SIZES = [(10, 3), (7, 7), (12, 4), (5, 13), (1, 4), (100, 1), (6, 4)]


@pytest.mark.parametrize(("size", "batch_size"), SIZES)
def test_every_pass_takes_every_item_once(size: int, batch_size: int) -> None:
    batches = Batches(size, batch_size, 0, "data")
    steps = math.lcm(size, batch_size) // batch_size * 2
    drawn = [batches(step) for step in range(steps)]
    assert all(index.shape == (batch_size,) and index.dtype == torch.int64 for index in drawn)
    passes = torch.cat(drawn).view(-1, size)
    assert (passes.sort(1).values == torch.arange(size)).all()
    if size >= 7:
        assert not torch.equal(passes[0], passes[1])  # shuffled anew
        assert not torch.equal(passes[0], torch.arange(size))


@pytest.mark.parametrize(("size", "batch_size"), SIZES)
def test_a_batch_depends_on_its_step_alone(size: int, batch_size: int) -> None:
    steps = list(range(12))
    in_order = [Batches(size, batch_size, 5, "data")(step) for step in steps]  # each from a fresh object
    one = Batches(size, batch_size, 5, "data")
    for step in [*steps, *reversed(steps), 7, 7, 0]:
        assert torch.equal(one(step), in_order[step])


def test_a_step_costs_the_same_for_any_number_of_items(work: Callable[[Callable[[], object]], int]) -> None:
    costs = []
    for size in (1_000, 100_000):
        batches = Batches(size, 64, 0, "data")
        batches(0)  # shuffles the pass
        costs.append(work(lambda batches=batches: batches(1)))  # type: ignore[misc]
    assert costs[0] == costs[1] <= 4 * 64


def test_passes_follow_each_other_without_a_gap() -> None:
    batches = Batches(10, 4, 0, "data")
    passes = torch.cat([Batches(10, 10, 0, "data")(step) for step in range(3)])
    assert torch.equal(torch.cat([batches(step) for step in range(7)]), passes[:28])


def test_seed_and_purpose_change_the_order() -> None:
    base = Batches(50, 50, 0, "a")(0)
    assert not torch.equal(base, Batches(50, 50, 1, "a")(0))
    assert not torch.equal(base, Batches(50, 50, 0, "b")(0))
