"""Rows of rotated signals: 3 N rows are rotation by rotation for losses, image by image for shards."""

import torch

from gankd.training.rows import by_row, restricted_to, rotations_first, rotations_last

ROTATED = torch.tensor([10, 11, 20, 21, 30, 31])
"""Two images, 0 and 1, in three rotations, 10, 20 and 30."""


def test_each_image_has_its_three_rotations_and_the_way_back_is_the_same() -> None:
    last = rotations_last("rotated_student_outputs", [ROTATED], 2)
    assert torch.equal(last[0], torch.tensor([[10, 20, 30], [11, 21, 31]]))
    assert torch.equal(rotations_first("rotated_student_outputs", last)[0], ROTATED)
    assert rotations_first("student_outputs", ROTATED) is rotations_last("student_outputs", ROTATED, 6) is ROTATED


def test_a_reader_by_row_gives_as_many_rows_as_images() -> None:
    outputs, signals = by_row(lambda images: (images, {"rotated_a": ROTATED, "b": images}))(torch.tensor([0, 1]))
    assert [len(value) for value in (outputs, *signals.values())] == [2, 2, 2]


def test_the_taught_rows_of_a_rotated_signal_are_those_of_each_rotation() -> None:
    assert restricted_to("rotated_a", ROTATED, slice(1, None), 2).tolist() == [11, 21, 31]
    assert restricted_to("a", ROTATED, slice(1, None), 6).tolist() == [11, 20, 21, 30, 31]
