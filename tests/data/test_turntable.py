import numpy as np
import pytest
import torch

from gankd.data import turntable
from gankd.data.turntable import (
    CREAM,
    DARK,
    LIGHT,
    NUM_OBJECTS,
    TURNTABLE,
    Array,
    Part,
    Quadric,
    Slab,
    load_turntable,
    render,
    split_turntable,
    unseen_angles,
)
from gankd.errors import ConfigError

BALL = Part(CREAM, (Quadric((0.1, 0.4, -0.2), (1.0, 1.0, 1.0), 0.25),), 1.0, 1.0)
SOLIDS = {
    "ball": (BALL,),
    "box": (turntable._box(CREAM, (0.2, 0.1, -0.1), (0.9, 0.5, 0.6), 25.0),),
    "cylinder": (turntable._round(CREAM, 0.6, 0.0, 0.8),),
    "cone": (turntable._round(CREAM, 0.5, 0.1, 1.2, 1.2),),
    "cut cylinder": (turntable._round(CREAM, 0.6, 0.0, 0.8).cut(Slab((0.6, 0.8, 0.0), -np.inf, 0.4)),),
    "union": (turntable._box(DARK, (0.4, 0.0, 0.3), (0.3, 1.0, 0.3)), BALL),
    "union in another order": (BALL, turntable._box(DARK, (0.4, 0.0, 0.3), (0.3, 1.0, 0.3))),
}
solids = pytest.mark.parametrize("parts", SOLIDS.values(), ids=SOLIDS)


def contains(parts: tuple[Part, ...], points: Array) -> Array:
    """Whether points (3, N) lie in the union of the parts: straight from the inequalities."""
    inside = np.zeros(points.shape[1], bool)
    for part in parts:
        within = np.ones_like(inside)
        for item in part.constraints:
            if isinstance(item, Slab):
                height = np.array(item.normal) @ points
                within &= (item.low <= height) & (height <= item.high)
            else:
                offset = points - np.array(item.centre)[:, None]
                within &= np.array(item.weights) @ offset**2 <= item.level
        inside |= within
    return inside


def rays_towards(count: int) -> tuple[Array, Array]:
    """A camera (3, 1), above like the real one, and directions (3, count) that reach around the solids."""
    random = np.random.default_rng(0)
    origin = np.array([[0.5], [2.4], [3.2]], np.float32)
    targets = random.uniform((-0.9, -0.1, -0.9), (0.9, 1.3, 0.9), (count, 3)).T
    return origin, (targets - origin).astype(np.float32)


@solids
def test_first_hit_agrees_with_marching_along_the_ray(parts: tuple[Part, ...]) -> None:
    origin, rays = rays_towards(300)
    distance, part, _ = turntable._first_hit(parts, origin, rays)
    steps = np.linspace(0, 2, 2001)
    inside = np.stack([contains(parts, origin + t * rays) for t in steps])
    marched = np.where(inside.any(0), steps[inside.argmax(0)], np.inf)
    both = np.isfinite(distance) & np.isfinite(marched)
    assert 30 < both.sum() < 300
    assert not np.isfinite(marched[~both]).any()
    assert np.isfinite(distance[~both]).mean() < 0.05  # a grazing ray can pass between two steps
    beyond = marched[both] - distance[both]
    assert beyond.min() > -1e-5
    assert beyond.max() < 1.1e-3  # a step further at most
    for number in range(len(parts)):
        mine = both & (part == number)
        inner = origin + rays[:, mine] * (distance[mine] + 1e-4)
        assert contains(parts[number : number + 1], inner).mean() > 0.98  # edges aside


@solids
def test_normals_are_of_unit_length_and_point_out(parts: tuple[Part, ...]) -> None:
    origin, rays = rays_towards(300)
    distance, part, face = turntable._first_hit(parts, origin, rays)
    seen = np.isfinite(distance)
    points = (origin + rays * np.where(seen, distance, 0))[:, seen]
    normals, _ = turntable._surface(parts, points, part[seen], face[seen])
    np.testing.assert_allclose((normals**2).sum(0), 1, atol=1e-5)
    assert np.all((normals * rays[:, seen]).sum(0) < 1e-4)  # a visible face looks at the camera
    assert contains(parts, points - 1e-3 * normals).mean() > 0.98  # edges aside
    assert contains(parts, points + 1e-3 * normals).mean() < 0.02


@solids
def test_shadow_agrees_with_marching_to_the_light(parts: tuple[Part, ...]) -> None:
    random = np.random.default_rng(1)
    points = random.uniform((-1.5, -0.1, -1.5), (1.5, 0.5, 1.5), (400, 3)).T.astype(np.float32)
    light = np.array(LIGHT, np.float32)[:, None]
    shadow = turntable._in_shadow(parts, points, light)
    marched = np.stack([contains(parts, points + t * light) for t in np.linspace(2e-3, 3, 1500)]).any(0)
    assert 10 < shadow.sum() < 390
    assert (shadow != marched).mean() < 0.02


def test_the_sun_is_a_unit_vector_and_lights_the_empty_disc_by_lamberts_law() -> None:
    assert np.linalg.norm(LIGHT) == pytest.approx(1, abs=1e-3)
    stage = turntable._stage(32)
    on_disc = (np.abs(stage.ground[1]) < 1e-5) & (np.hypot(stage.ground[0], stage.ground[2]) < 0.99)
    albedo = np.array(turntable.DISC.paint.first)[:, None]
    shade = turntable.AMBIENT + turntable.SKY
    for image, level in ((stage.shade, shade), (stage.light, shade + turntable.SUN * LIGHT[1])):
        error = image[:, on_disc] - 255 * albedo * level
        assert np.abs(error).max() < 0.1


def test_yaw_turns_counter_clockwise_seen_from_above() -> None:
    quarter = np.array([[0.0]], np.float32), np.array([[1.0]], np.float32)  # cos, sin of 90 degrees
    room = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], np.float32)  # to the right; to the camera
    # After a quarter turn the object's front (0, 0, 1) points right, its left side (-1, 0, 0) to the camera.
    expected = np.array([[0.0, -1.0], [0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(turntable._into_frame(room, *quarter)[:, 0], expected, atol=1e-7)


def test_a_box_turns_like_the_table() -> None:
    box = turntable._box(CREAM, (0.5, 0.0, 0.0), (0.2, 0.1, 0.4), 90.0)  # from the right to the back
    corners = np.array([[-0.19, 0.01, -0.59], [0.19, 0.09, -0.41], [0.0, 0.05, 0.5], [-0.19, 0.05, -0.39]]).T
    assert contains((box,), corners).tolist() == [True, True, False, False]


def project(x: float, y: float, z: float, size: int) -> tuple[float, float]:
    """(row, column) where a pin-hole camera sees a point of the room, in pixels from the top left corner."""
    cos, sin, y = np.cos(turntable.PITCH), np.sin(turntable.PITCH), y - turntable.LOOK_AT
    scale = size / 2 / turntable.HALF_VIEW / (turntable.DISTANCE - y * sin - z * cos)
    return size / 2 - (y * cos - z * sin) * scale, size / 2 + x * scale


def test_a_spot_moves_along_its_circle_as_perspective_says(monkeypatch: pytest.MonkeyPatch) -> None:
    spot = Part(DARK, (Quadric((0.0, 0.05, 0.8), (1.0, 1.0, 1.0), 0.003),), 0.9, 0.2)
    monkeypatch.setattr(turntable, "_parts", lambda number: (spot,))
    yaws = torch.arange(0, 91, 15)
    images = render(torch.zeros(7, dtype=torch.long), yaws, 64).float().mean(1)
    for yaw, image in zip(yaws.double().deg2rad(), images, strict=True):
        row, column = project(0.8 * yaw.sin().item(), 0.05, 0.8 * yaw.cos().item(), 64)
        darkest = divmod(int(image.argmin()), 64)
        assert darkest == pytest.approx((row - 0.5, column - 0.5), abs=2)  # the spot's radius is 1.6 pixels


def test_a_pole_casts_its_shadow_away_from_the_sun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turntable, "_parts", lambda number: (turntable._round(CREAM, 0.1, 0.0, 0.7),))
    images = render(torch.zeros(4, dtype=torch.long), torch.tensor([0.0, 20.0, 50.0, 90.0]), 64).float().mean(1)
    for image in images:  # the sun stays where it is while the table turns
        for height in (0.3, 0.45, 0.6):
            x, z = -LIGHT[0] * height / LIGHT[1], -LIGHT[2] * height / LIGHT[1]
            (row, column), (mirrored_row, mirrored_column) = project(x, 0, z, 64), project(-x, 0, z, 64)
            shade, light = image[int(row), int(column)], image[int(mirrored_row), int(mirrored_column)]
            ratio = (turntable.AMBIENT + turntable.SKY) / (turntable.AMBIENT + turntable.SKY + turntable.SUN * LIGHT[1])
            assert (shade / light).item() == pytest.approx(ratio, abs=0.02)


def test_an_image_depends_on_its_object_yaw_and_size_alone() -> None:
    random = np.random.default_rng(2)
    objects = torch.from_numpy(random.integers(0, NUM_OBJECTS, 60))
    objects[:40] = 5  # more than are traced at once
    yaws = torch.from_numpy(random.uniform(0, 90, 60))
    images = render(objects, yaws)
    assert images.shape == (60, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert torch.equal(images, render(objects, yaws))
    order = torch.from_numpy(random.permutation(60))
    assert torch.equal(images[order], render(objects[order], yaws[order]))
    for index in (0, 39, 59):
        assert torch.equal(images[index], render(objects[index : index + 1], yaws[index : index + 1])[0])
    assert torch.equal(images, render(objects, yaws.float()))  # labels are stored as float32
    assert render(objects[:0], yaws[:0]).shape == (0, 3, 32, 32)


def test_a_larger_image_shows_the_same_scene() -> None:
    objects, yaws = torch.arange(14), torch.linspace(1, 89, 14)
    small = render(objects, yaws, 16).float()
    large = torch.nn.functional.avg_pool2d(render(objects, yaws, 64).float(), 4)
    assert (small - large).abs().mean() < 5 < (small - small.roll(1, 0)).abs().mean()


def test_objects_stay_in_the_frame_and_differ() -> None:
    objects = torch.arange(NUM_OBJECTS)
    for yaw in (0.0, 45.0, 90.0):
        images = render(objects, torch.full((NUM_OBJECTS,), yaw)).float()
        for border in (images[:, :, 0], images[:, :, 1:12, 0], images[:, :, 1:12, -1]):
            assert torch.equal(border, border[:1].expand_as(border))  # the empty backdrop
        distance = torch.cdist(images.flatten(1), images.flatten(1), p=1) / images[0].numel()
        assert distance.fill_diagonal_(torch.inf).min() > 4


def test_yaw_can_be_read_off_every_object() -> None:
    known, asked = torch.arange(0.5, 90, 3.0), torch.arange(2.1, 89, 7.3)
    for number in range(NUM_OBJECTS):
        gallery = render(torch.full((len(known),), number), known).flatten(1).float()
        assert (gallery[0] - gallery[-1]).abs().mean() > 5  # the two ends of the range are not alike
        queries = render(torch.full((len(asked),), number), asked).flatten(1).float()
        found = known[torch.cdist(queries, gallery).argmin(1)]
        assert (found - asked).abs().max() < 4.0  # at best 1.5: the gallery's own step is 3 degrees


def test_splits_are_disjoint_nested_and_of_the_documented_sizes() -> None:
    whole = {k: split_turntable(k) for k in (1, 5, 15, 25)}
    sets = {k: [set(map(tuple, part.tolist())) for part in parts] for k, parts in whole.items()}
    for k, parts in sets.items():
        assert [len(part) for part in parts] == [450 * k, 900, 1798]
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert parts[1:] == sets[25][1:]
    assert sets[1][0] < sets[5][0] < sets[15][0] < sets[25][0]
    train, val, test = whole[25]
    assert (torch.cat([train, val])[:, 1] % 2 == 1).all()
    assert set(test[:, 1].tolist()) == set(range(1, 900))
    assert train[:, 0].bincount(minlength=NUM_OBJECTS).min() > 180  # all objects are about equally frequent


def test_loaded_images_are_renders_of_their_labels() -> None:
    splits = load_turntable(size=16, per_label=1)
    pairs = split_turntable(1)
    for part, expected in zip((splits.train, splits.val, splits.test), pairs, strict=True):
        assert part.task == TURNTABLE
        assert part.shape == (3, 16, 16)
        torch.testing.assert_close(part.labels, expected[:, 1] / 10)
        some = torch.arange(0, len(part), 150)
        assert torch.equal(part.images[some], render(expected[some, 0], part.labels[some], 16))
    unseen = unseen_angles(splits.test.labels)
    assert int(unseen.sum()) == 898
    assert not unseen_angles(splits.train.labels).any()
    assert torch.equal(unseen, ~torch.isin(splits.test.labels, splits.train.labels))
    assert {"origin", "licence", "split"} <= splits.card.keys()


@pytest.mark.parametrize("per_angle", [0, 26])
def test_per_angle_out_of_range_is_refused(per_angle: int) -> None:
    with pytest.raises(ConfigError, match=r"per_angle must lie in 1\.\.25"):
        load_turntable(per_label=per_angle)


@pytest.mark.parametrize(
    ("objects", "yaws", "size", "message"),
    [
        ([0], [1.0], 30, "multiple of 4"),
        ([0], [1.0], 0, "multiple of 4"),
        ([49], [1.0], 32, r"objects are 0\.\.48, got \[49\]"),
        ([0, 1], [1.0], 32, r"\(2,\) and \(1,\)"),
        ([0], [float("nan")], 32, "finite"),
    ],
)
def test_bad_requests_are_refused(objects: list[int], yaws: list[float], size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        render(torch.tensor(objects), torch.tensor(yaws), size)
