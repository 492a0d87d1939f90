"""Solid objects on a turntable, ray-traced by code: regression of the yaw, also at angles never trained on.

Stands in for RC-49 (49 chairs at 899 yaw angles; Ding et al., ICLR 2021) and keeps its design: 49 objects at
0.1 .. 89.9 degrees in steps of 0.1; some images of the angles with an odd last digit to train on, all other
angles for testing. Every object is a union of convex parts cut out by slabs and quadrics, in a frame with x
to the right, y up and z towards the camera at yaw 0; the top of the turntable is y = 0. A growing yaw turns
the object counter-clockwise as seen from above.
"""

import colorsys
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gankd.config import require
from gankd.data.images import LabelledImages, Splits
from gankd.seeds import rng
from gankd.tasks import Regression

TURNTABLE = Regression(low=0.0, high=90.0, unit="degrees")
NUM_OBJECTS = 49
MAX_PER_ANGLE = 25
HELD_OUT = 2
"""Images per angle in the validation split and in the test split."""

CARD = {
    "origin": "49 solid objects of seven kinds, ray-traced by gankd itself at yaws of 0.1 .. 89.9 degrees; "
    "follows RC-49 (Ding et al., ICLR 2021), whose chairs are not used",
    "licence": "rendered by code; none needed",
}

Array = NDArray[Any]
Vector = tuple[float, float, float]


# ---- what the objects are made of


class Paint(NamedTuple):
    """Two RGB colours in [0, 1] that alternate like a chess board in space."""

    first: Vector
    second: Vector
    cells: Vector = (0.0, 0.0, 0.0)
    """Cells per unit length along x, y and z, 0 for no change: one axis gives stripes, two a board."""


class Slab(NamedTuple):
    """All points with low <= normal . point <= high."""

    normal: Vector
    low: float
    high: float


class Quadric(NamedTuple):
    """All points with sum of weights (point - centre)^2 <= level: balls, cylinders, steep cones."""

    centre: Vector
    weights: Vector
    level: float


@dataclass(frozen=True)
class Part:
    """A convex solid: the common points of its constraints, inside the upright cylinder (reach, top)."""

    paint: Paint
    constraints: tuple[Slab | Quadric, ...]
    reach: float
    top: float

    def cut(self, *more: Slab) -> "Part":
        """Part of the solid within further slabs."""
        return replace(self, constraints=self.constraints + more)


def _box(paint: Paint, centre: Vector, size: Vector, turn_degrees: float = 0.0) -> Part:
    """A box by the middle of its bottom and its (width, height, depth), then turned about the y axis."""
    (x, y, z), (width, height, depth) = centre, size
    cos, sin = math.cos(math.radians(turn_degrees)), math.sin(math.radians(turn_degrees))
    slabs = (
        Slab((cos, 0.0, -sin), x - width / 2, x + width / 2),
        Slab((0.0, 1.0, 0.0), y, y + height),
        Slab((sin, 0.0, cos), z - depth / 2, z + depth / 2),
    )
    return Part(paint, slabs, math.hypot(abs(x) + width / 2, abs(z) + depth / 2), y + height)


def _round(paint: Paint, radius: float, low: float, high: float, point: float = math.inf) -> Part:
    """A cylinder about the y axis from height `low` to `high`, or a cone that would end at height `point`."""
    layer = Slab((0.0, 1.0, 0.0), low, high)
    if point == math.inf:
        return Part(paint, (layer, Quadric((0.0, 0.0, 0.0), (1.0, 0.0, 1.0), radius**2)), radius, high)
    slope = radius / (point - low)
    # Flatter cones have rays that enter through the mirrored half above the point.
    assert slope < 0.6, "cones must be steeper than any ray"
    return Part(paint, (layer, Quadric((0.0, point, 0.0), (1.0, -(slope**2), 1.0), 0.0)), radius, high)


class _Dice:
    """The random choices that make one object."""

    def __init__(self, number: int) -> None:
        self._values = iter(torch.rand(64, generator=rng(0, "turntable", "object", number)).tolist())
        # Seven objects of a kind get hues a seventh apart, so that they differ in colour as well.
        self._hue = (number // 7 + (number % 7) * 0.31) / 7

    def between(self, low: float, high: float) -> float:
        """A number within [low, high]."""
        value: float = low + (high - low) * next(self._values)
        return value

    def colour(self, shift: float, saturation: float, value: float) -> Vector:
        """The object's own hue, moved by `shift` of the colour circle."""
        return colorsys.hsv_to_rgb((self._hue + shift) % 1.0, saturation, value)

    def paint(self, shift: float = 0.0, cells: Vector = (0.0, 0.0, 0.0)) -> Paint:
        """A strong colour, in turns with a lighter one."""
        saturation, value = self.between(0.5, 0.72), self.between(0.78, 0.93)
        return Paint(self.colour(shift, saturation, value), self.colour(shift + 0.04, 0.22, 0.98), cells)


def _plain(*colour: float) -> Paint:
    red, green, blue = colour
    return Paint((red, green, blue), (red, green, blue))


DARK, COFFEE, CREAM = _plain(0.2, 0.17, 0.18), _plain(0.36, 0.22, 0.15), _plain(0.97, 0.93, 0.84)
THIN = 0.03
"""Thickness of labels, doors and windows stuck on a face."""


def _crate(dice: _Dice) -> list[Part]:
    width, depth, height = dice.between(1.05, 1.3), dice.between(0.6, 0.85), dice.between(0.45, 0.95)
    boards = dice.paint(0.0, (0.0, dice.between(3.5, 5.0), 0.0))
    label, stamp = dice.paint(0.5), dice.paint(0.25, (0.0, 0.0, dice.between(3.0, 4.0)))
    lid = 0.12
    return [
        _box(boards, (0, 0, 0), (width, height, depth)),
        _box(dice.paint(0.5), (0, height, 0), (width + 0.06, lid, depth + 0.06)),
        _box(label, (dice.between(-0.2, 0.2), 0.2 * height, depth / 2), (0.4, 0.55 * height, 2 * THIN)),
        _box(stamp, (-width / 2, 0.15 * height, 0), (2 * THIN, 0.6 * height, 0.7 * depth)),
    ]


def _house(dice: _Dice) -> list[Part]:
    width, depth = dice.between(0.75, 0.95), dice.between(1.0, 1.25)
    wall, ridge = dice.between(0.4, 0.55), dice.between(0.85, 1.05)
    eaves = width / 2 + 0.1
    steep = math.atan2(ridge - wall, eaves)
    reach = eaves * math.sin(steep) + wall * math.cos(steep)
    roof = _box(dice.paint(0.0, (0.0, 0.0, 5.0)), (0, wall, 0), (2 * eaves, ridge - wall, depth + 0.12)).cut(
        Slab((math.sin(steep), math.cos(steep), 0.0), -math.inf, reach),
        Slab((-math.sin(steep), math.cos(steep), 0.0), -math.inf, reach),
    )
    side = dice.between(-0.15, 0.15)
    parts = [
        _box(Paint(dice.colour(0.5, 0.18, 0.95), CREAM.first), (0, 0, 0), (width, wall, depth)),
        roof,
        _box(dice.paint(0.5), (side, 0, depth / 2), (0.24, 0.75 * wall, 2 * THIN)),
        _box(DARK, (-width / 4, wall, -depth / 4), (0.16, ridge - wall + 0.05, 0.16)),
    ]
    for z in (-depth / 4, depth / 4):
        parts.append(_box(DARK, (-width / 2, 0.35 * wall, z), (2 * THIN, 0.4 * wall, 0.22)))
    return parts


def _stairs(dice: _Dice) -> list[Part]:
    count = 3 + int(dice.between(0, 2))
    width, depth, rise = dice.between(1.1, 1.3), dice.between(0.55, 0.8), dice.between(0.75, 1.0) / count
    tread = width / count
    odd, even = dice.paint(0.0), dice.paint(0.45, (0.0, 0.0, 4.0))
    parts = []
    for step in range(count):
        x, height = (step + 0.5) * tread - width / 2, (step + 1) * rise
        parts.append(_box(even if step % 2 else odd, (x, 0, 0), (tread, height, depth)))
    rail = _box(dice.paint(0.2), (0, 0, -depth / 2), (width, (count + 0.4) * rise, 0.1))
    steep = math.atan2(rise * count * 0.7, width)
    line = math.cos(steep) * (count + 0.4) * rise - math.sin(steep) * width / 2
    return [*parts, rail.cut(Slab((-math.sin(steep), math.cos(steep), 0.0), -math.inf, line))]


def _chair(dice: _Dice) -> list[Part]:
    width, depth, seat = dice.between(0.75, 0.95), dice.between(0.7, 0.9), dice.between(0.4, 0.52)
    back = dice.between(0.48, 0.62)
    wood, cloth = dice.paint(0.0), dice.paint(0.5, (4.0, 0.0, 4.0))
    parts = [
        _box(cloth, (0, seat, 0), (width, 0.12, depth)),
        _box(
            dice.paint(0.0, (dice.between(4.0, 5.5), 0.0, 0.0)),
            (0, seat + 0.12, -depth / 2 + 0.06),
            (width, back, 0.12),
        ),
    ]
    for x in (-width / 2 + 0.06, width / 2 - 0.06):
        parts += [_box(wood, (x, 0, z), (0.12, seat, 0.12)) for z in (-depth / 2 + 0.06, depth / 2 - 0.06)]
    if dice.between(0, 1) < 0.5:
        parts.append(_box(DARK, (width / 2 - 0.05, seat + 0.12, 0), (0.1, 0.24, 0.9 * depth)))
    return parts


def _sofa(dice: _Dice) -> list[Part]:
    width, depth, deep = dice.between(1.2, 1.35), dice.between(1.05, 1.2), dice.between(0.42, 0.52)
    seat, back = dice.between(0.28, 0.38), dice.between(0.65, 0.9)
    frame, cushion = dice.paint(0.0), dice.paint(0.08, (dice.between(2.2, 3.0), 0.0, dice.between(2.2, 3.0)))
    right, rear = width / 2, -depth / 2
    return [
        _box(cushion, (0, 0, rear + deep / 2), (width, seat, deep)),
        _box(cushion, (right - deep / 2, 0, 0), (deep, seat, depth)),
        _box(frame, (0, 0, rear + 0.08), (width, back, 0.16)),
        _box(dice.paint(0.45), (right - 0.08, 0, 0), (0.16, back, depth)),
        _box(dice.paint(0.6), (-width / 2 + 0.2, seat, rear + 0.26), (0.3, 0.26, 0.16)),
    ]


def _mug(dice: _Dice) -> list[Part]:
    radius, height = dice.between(0.42, 0.52), dice.between(0.75, 1.0)
    body = _round(dice.paint(0.0, (0.0, dice.between(2.0, 4.0), 0.0)), radius, 0.0, height)
    patch = _round(dice.paint(0.5), radius + 0.015, 0.2 * height, 0.8 * height).cut(
        Slab((0.0, 0.0, 1.0), 0.0, math.inf), Slab((1.0, 0.0, 0.0), -0.25, dice.between(0.1, 0.35))
    )
    turn, out, thick = dice.between(-30, 10), dice.between(0.24, 0.32), 0.12
    low, high, clay = 0.2 * height, 0.85 * height, dice.paint(0.5)
    middle = -radius - out / 2 + 0.05
    return [
        body,
        patch,
        _round(CREAM, radius + 0.02, height - 0.06, height),
        _round(COFFEE, radius - 0.06, height, height + 0.004),
        _box(clay, (middle, low, 0), (out + 0.1, thick, 0.14), turn),
        _box(clay, (middle, high - thick, 0), (out + 0.1, thick, 0.14), turn),
        _box(clay, (-radius - out + 0.06, low, 0), (thick, high - low, 0.14), turn),
    ]


def _rocket(dice: _Dice) -> list[Part]:
    radius, start, nose = dice.between(0.28, 0.36), 0.15, dice.between(0.4, 0.55)
    body = start + dice.between(0.52, 0.62)
    cone = radius / 0.55 if radius / nose > 0.55 else nose
    hull = dice.paint(0.0, (0.0, dice.between(2.5, 4.0), 0.0))
    parts = [
        _round(DARK, 0.7 * radius, 0.0, start),
        _round(hull, radius, start, body),
        _round(dice.paint(0.5), radius, body, body + cone, body + cone),
        _round(DARK, radius + 0.02, body - 0.25, body - 0.05).cut(
            Slab((0.0, 0.0, 1.0), 0.0, math.inf), Slab((1.0, 0.0, 0.0), -0.14, 0.14)
        ),
    ]
    span, first = dice.between(0.34, 0.42), dice.between(-20, 20)
    for turn, paint in ((0, dice.paint(0.5)), (90, CREAM), (180, dice.paint(0.25)), (270, dice.paint(0.75))):
        fin = _box(paint, (radius + span / 2 - 0.05, 0, 0), (span + 0.1, 0.55, 0.09), first + turn)
        out = fin.constraints[0]
        assert isinstance(out, Slab)
        slope = (0.8 * out.normal[0], 0.6, 0.8 * out.normal[2])
        parts.append(fin.cut(Slab(slope, -math.inf, 0.8 * (radius + span) + 0.6 * 0.12)))
    return parts


KINDS: tuple[Callable[[_Dice], list[Part]], ...] = (_crate, _house, _stairs, _chair, _sofa, _mug, _rocket)


@cache
def _parts(number: int) -> tuple[Part, ...]:
    """The solid parts of one of the 49 objects: seven of each kind."""
    return tuple(KINDS[number % len(KINDS)](_Dice(number)))


# ---- light and camera
#
# Only + - * / sqrt floor and comparisons touch the arrays: IEEE 754 fixes their results, so an image does not
# depend on what else is rendered with it, nor on how a processor splits an array.

PITCH = math.radians(27)
DISTANCE = 5.0
LOOK_AT = 0.44
HALF_VIEW = 1.02 / DISTANCE
LIGHT = (-0.45, 0.7, 0.554)
"""Unit vector from every point to the sun: over the left shoulder of the viewer."""
AMBIENT, SKY, SUN = 0.38, 0.1, 0.68
FLOOR = -0.09
DISC = _round(_plain(0.66, 0.64, 0.63), 1.0, FLOOR, 0.0)
TOGETHER = 16
"""Images traced at once: few enough for a processor's cache, many enough to spread numpy's overhead."""


def _dot(a: Vector, b: Array) -> Array:
    """Dot product of a vector, not zero, with rays or points b (3, ...); skips the terms that vanish."""
    terms = [b[axis] if a[axis] == 1.0 else a[axis] * b[axis] for axis in range(3) if a[axis] != 0.0]
    total: Array = sum(terms[1:], terms[0])
    return total


def _crossings(part: Part, origin: Array, direction: Array) -> Iterator[tuple[Array, Array]]:
    """(enter, leave) on rays origin + t direction, (3, ...), of each constraint; enter > leave is a miss."""
    for constraint in part.constraints:
        if isinstance(constraint, Slab):
            speed, start = _dot(constraint.normal, direction), _dot(constraint.normal, origin)
            # A ray along the slab divides by 0, and the infinities that come of it are right.
            with np.errstate(divide="ignore", invalid="ignore"):
                one, other = (constraint.low - start) / speed, (constraint.high - start) / speed
            yield np.minimum(one, other), np.maximum(one, other)
        else:
            offset = origin - np.array(constraint.centre, np.float32).reshape(3, *[1] * (origin.ndim - 1))
            a = _dot(constraint.weights, direction * direction)
            b = _dot(constraint.weights, direction * offset)
            c = _dot(constraint.weights, offset * offset) - constraint.level
            inside = b * b - a * c
            root = np.sqrt(np.maximum(inside, 0.0))
            yield np.where(inside > 0, (-b - root) / a, np.inf), (root - b) / a


def _first_hit(parts: tuple[Part, ...], origin: Array, direction: Array) -> tuple[Array, Array, Array]:
    """Distance along each ray (inf for a miss), and which part and which of its constraints is hit there."""
    shape = np.broadcast_shapes(origin.shape, direction.shape)[1:]
    distance = np.full(shape, np.inf, np.float32)
    hit_part, hit_face = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for number, part in enumerate(parts):
        near, far = np.full(shape, -np.inf, np.float32), np.full(shape, np.inf, np.float32)
        face = np.zeros(shape, np.uint8)
        for index, (enter, leave) in enumerate(_crossings(part, origin, direction)):
            np.copyto(face, index, where=enter > near)
            near, far = np.maximum(near, enter), np.minimum(far, leave)
        closer = (near < far) & (near > 0) & (near < distance)
        np.copyto(distance, near, where=closer)
        np.copyto(hit_part, number, where=closer)
        np.copyto(hit_face, face, where=closer)
    return distance, hit_part, hit_face


def _in_shadow(parts: tuple[Part, ...], points: Array, light: Array) -> Array:
    """True where a part is between points (3, ...) and the light, a direction that broadcasts with them."""
    shape = np.broadcast_shapes(points.shape, light.shape)[1:]
    shadow = np.zeros(shape, bool)
    for part in parts:
        # By rounding, a point may be just inside its own surface and must not shade itself: start a bit off.
        near, far = np.full(shape, 2e-3, np.float32), np.full(shape, np.inf, np.float32)
        for enter, leave in _crossings(part, points, light):
            near, far = np.maximum(near, enter), np.minimum(far, leave)
        shadow |= near < far
    return shadow


def _surface(parts: tuple[Part, ...], points: Array, hit_part: Array, hit_face: Array) -> tuple[Array, Array]:
    """Outward unit normals (3, M) and colours (3, M) at surface points (3, M)."""
    normals, colours = np.empty_like(points), np.empty_like(points)
    for number, part in enumerate(parts):
        for index, constraint in enumerate(part.constraints):
            here = np.flatnonzero((hit_part == number) & (hit_face == index))
            if len(here) == 0:
                continue
            local = points[:, here]
            if isinstance(constraint, Slab):
                upper = 2 * _dot(constraint.normal, local) > constraint.low + constraint.high
                sign = np.where(upper, np.float32(1), np.float32(-1))
                normals[:, here] = np.array(constraint.normal, np.float32)[:, None] * sign
            else:
                gradient = _column(constraint.weights) * (local - _column(constraint.centre))
                normals[:, here] = gradient / np.sqrt(_dot((1.0, 1.0, 1.0), gradient * gradient))
            cell = np.floor(_column(part.paint.cells) * local)
            odd = _dot((1.0, 1.0, 1.0), cell) % 2 == 1
            colours[:, here] = np.where(odd, _column(part.paint.second), _column(part.paint.first))
    return normals, colours


def _column(vector: Vector) -> Array:
    return np.array(vector, np.float32)[:, None]


def _lit(normals: Array, colours: Array, light: Array, shadow: Array) -> Array:
    """Lambert's law under a sun and a sky that is brighter above; colours (3, M) in 0 .. 255."""
    cosine = np.where(shadow, np.float32(0), np.maximum(_dot((1.0, 1.0, 1.0), normals * light), 0))
    lit: Array = np.minimum(colours * (AMBIENT + SKY * normals[1] + SUN * cosine), 1.0) * np.float32(255)
    return lit


class _Stage(NamedTuple):
    """Scene without an object, in the frame of the room; P = (2 size)^2 rays, 4 to a pixel."""

    camera: Array  # (3, 1)
    rays: Array  # (3, P)
    ground: Array  # (3, P) where each ray meets the disc or the floor
    light: Array  # (3, P) colours in the light
    shade: Array  # (3, P) colours in the shadow


@cache
def _stage(size: int) -> _Stage:
    """The empty turntable."""
    cos, sin = math.cos(PITCH), math.sin(PITCH)
    camera = _column((0.0, LOOK_AT + DISTANCE * sin, DISTANCE * cos))
    across = (np.arange(2 * size, dtype=np.float32) + 0.5 - size) * np.float32(HALF_VIEW / size)
    up, right = (part.ravel() for part in np.meshgrid(-across, across, indexing="ij"))
    rays = np.stack([right, up * np.float32(cos) - np.float32(sin), -up * np.float32(sin) - np.float32(cos)])

    distance, part, face = _first_hit((DISC,), camera, rays)
    floor = (FLOOR - camera[1]) / rays[1]
    on_disc = np.isfinite(distance)
    ground = camera + rays * np.where(on_disc, distance, floor)
    normals, colours = _surface((DISC,), ground, part, face)
    lit, dim = (_lit(normals, colours, _column(LIGHT), np.full(len(up), shadow)) for shadow in (False, True))
    # The floor fades with the height in the picture, and darkens softly where it meets the disc.
    height = (np.float32(1) + up / np.float32(HALF_VIEW)) / 2
    backdrop = _column((226.0, 224.0, 222.0)) + _column((12.0, 18.0, 24.0)) * height
    radius = np.sqrt(ground[0] * ground[0] + ground[2] * ground[2])
    backdrop = backdrop * (1 - np.float32(0.22) * np.clip(1 - (radius - DISC.reach) / np.float32(0.35), 0, 1))
    lit, dim = np.where(on_disc, lit, backdrop), np.where(on_disc, dim, backdrop * np.float32(0.72))
    return _Stage(camera, rays, ground, lit, dim)


def _into_frame(vectors: Array, cos: Array, sin: Array) -> Array:
    """Vectors (3, R) of the room, in the frames (3, n, R) of objects turned by n yaws given as (n, 1)."""
    x, y, z = vectors[:, None, :]
    return np.stack([x * cos - z * sin, np.broadcast_to(y, (len(cos), y.shape[1])), x * sin + z * cos])


def _trace(number: int, yaws: list[float], size: int) -> Array:
    """One object at n yaws in degrees, uint8 (n, 3, size, size): camera and light walk around it."""
    parts, stage = _parts(number), _stage(size)
    hull = _round(DARK, max(p.reach for p in parts) + 0.01, 0.0, max(p.top for p in parts) + 0.01)
    seen = np.flatnonzero(np.isfinite(_first_hit((hull,), stage.camera, stage.rays)[0]))
    shaded = np.flatnonzero(_in_shadow((hull,), stage.ground, _column(LIGHT)))

    cos = np.array([[math.cos(math.radians(yaw))] for yaw in yaws], np.float32)
    sin = np.array([[math.sin(math.radians(yaw))] for yaw in yaws], np.float32)
    camera, light = _into_frame(stage.camera, cos, sin), _into_frame(_column(LIGHT), cos, sin)
    canvas = np.repeat(stage.light[:, None], len(yaws), axis=1)  # (3, n, P)
    shadow = _in_shadow(parts, _into_frame(stage.ground[:, shaded], cos, sin), light)
    canvas[:, :, shaded] = np.where(shadow, stage.shade[:, None, shaded], stage.light[:, None, shaded])

    rays = _into_frame(stage.rays[:, seen], cos, sin)
    distance, part, face = _first_hit(parts, camera, rays)
    image, ray = np.nonzero(np.isfinite(distance))
    points = camera[:, image, 0] + rays[:, image, ray] * distance[image, ray]
    light = light[:, image, 0]
    normals, colours = _surface(parts, points, part[image, ray], face[image, ray])
    canvas[:, image, seen[ray]] = _lit(normals, colours, light, _in_shadow(parts, points, light))

    quarters = canvas.reshape(3, len(yaws), size, 2, size, 2)
    rows = quarters[..., 0, :, :] + quarters[..., 1, :, :]
    pixels: Array = np.floor((rows[..., 0] + rows[..., 1]) / 4 + np.float32(0.5))
    return pixels.astype(np.uint8).transpose(1, 0, 2, 3)


def render(objects: Tensor, yaw_degrees: Tensor, size: int = 32) -> Tensor:
    """Images uint8 (N, 3, size, size) of objects int64 (N,), 0 .. 48, at yaw angles (N,) in degrees.

    An image depends only on its own object, yaw and size. Yaws beyond the task's 0 .. 90 are rendered too.

    Raises:
        ConfigError: size not a positive multiple of 4, an unknown object, or a yaw that is not a number.
    """
    require(size >= 4 and size % 4 == 0, f"turntable: size must be a positive multiple of 4, got {size}")
    require(
        objects.shape == yaw_degrees.shape == (len(objects),),
        f"turntable: objects and yaw_degrees must both be (N,), got {tuple(objects.shape)} and "
        f"{tuple(yaw_degrees.shape)}",
    )
    unknown = objects[(objects < 0) | (objects >= NUM_OBJECTS)][:1].tolist()
    require(not unknown, f"turntable: objects are 0..{NUM_OBJECTS - 1}, got {unknown}")
    require(bool(yaw_degrees.isfinite().all()), "turntable: yaw_degrees must be finite numbers")
    images = torch.empty(len(objects), 3, size, size, dtype=torch.uint8)
    yaws = yaw_degrees.float()  # the precision of labels of a data set
    for number in objects.unique().tolist():
        for index in (objects == number).nonzero()[:, 0].split(TOGETHER):
            images[index] = torch.from_numpy(_trace(number, yaws[index].tolist(), size))
    return images


# ---- the data set


def split_turntable(per_angle: int = MAX_PER_ANGLE) -> tuple[Tensor, Tensor, Tensor]:
    """(object, tenths of a degree) pairs, int64 (N, 2), of train, validation and test; sorted by angle.

    Each angle with an odd last digit has its own fixed order of the 49 objects: the first `per_angle` train,
    numbers 26 and 27 validate, 28 and 29 test. So smaller training sets are subsets of larger ones, and the
    other two splits never change. Each angle with an even last digit gives its first two objects to the test.

    Raises:
        ConfigError: per_angle outside 1 .. 25.
    """
    require(
        1 <= per_angle <= MAX_PER_ANGLE,
        f"turntable: per_angle must lie in 1..{MAX_PER_ANGLE}, got {per_angle}",
    )
    train, val, test = [], [], []
    for tenths in range(1, 900):
        order = torch.randperm(NUM_OBJECTS, generator=rng(0, "turntable", "objects", tenths))
        pairs = torch.stack([order, torch.full_like(order, tenths)], 1)
        if tenths % 2 == 0:
            test.append(pairs[:HELD_OUT])
            continue
        train.append(pairs[:per_angle])
        val.append(pairs[MAX_PER_ANGLE : MAX_PER_ANGLE + HELD_OUT])
        test.append(pairs[MAX_PER_ANGLE + HELD_OUT : MAX_PER_ANGLE + 2 * HELD_OUT])
    return torch.cat(train), torch.cat(val), torch.cat(test)


def unseen_angles(labels: Tensor) -> Tensor:
    """Mask (N,) of the labels in degrees whose last digit is even: no training image has such an angle."""
    return (labels.double() * 10).round().long() % 2 == 0


def load_turntable(*, size: int | None = None, per_label: int | None = None) -> Splits:
    """`turntable`: yaw regression at `size` x `size` (default 32) from `per_label` (default 25) training images of
    each odd angle.

    450 per_label images train, 900 validate and 1,798 test, 898 of them at angles never trained on.

    Raises:
        ConfigError: size not a positive multiple of 4, or per_label outside 1 .. 25.
    """
    per_angle = MAX_PER_ANGLE if per_label is None else per_label
    train, val, test = (
        LabelledImages(render(pairs[:, 0], labels, 32 if size is None else size), labels, TURNTABLE)
        for pairs in split_turntable(per_angle)
        for labels in [(pairs[:, 1].double() / 10).float()]
    )
    split = (
        f"train: {per_angle} of the 49 objects at each angle with an odd last digit; validation: 2 others; "
        "test: 2 others, and 2 at each angle with an even last digit, none of which is trained on"
    )
    return Splits(train, val, test, "turntable", CARD | {"split": split})
