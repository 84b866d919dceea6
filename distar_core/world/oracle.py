"""Reads attributes and factors back from pictures, without any network: it finds objects as connected patches and fits
each shape to them. The truth that everything in the world is measured against.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from ..rewards.base import check_pictures
from .scenes import (
    CIRCUMRADIUS,
    COLOURS,
    PIXELS,
    RELATIONS,
    SIZES,
    Scenes,
    Stated,
    coverage,
    read_caption,
    render,
)

VISIBLE = 0.3
SMALLEST_AREA = 14
SIZE_BORDER = (SIZES["small"][1] + SIZES["large"][0]) / 2


class Reading(NamedTuple):
    """What the oracle reads.

    Attributes:
        number: of objects found, [B]; only the two largest are read further.
        scenes: attributes and factors of up to two objects.
        residual: root mean square difference between the picture and the scene rendered from the reading, [B].
    """

    number: Tensor
    scenes: Scenes
    residual: Tensor


def _patches(visible: Tensor) -> Tensor:
    """Connected patches of [B, 32, 32] as numbers, the largest pixel index in each; 0 elsewhere."""
    numbers = (torch.arange(1.0, PIXELS * PIXELS + 1).view(1, PIXELS, PIXELS) * visible).float()
    for _ in range(PIXELS * 2):
        spread = max_pool2d(numbers[:, None], 3, stride=1, padding=1)[:, 0] * visible
        if torch.equal(spread, numbers):
            break
        numbers = spread
    return numbers


def _hue_and_brightness(colours: Tensor) -> tuple[Tensor, Tensor]:
    """HSV hue in degrees and value of colours [..., 3]."""
    r, g, b = colours.unbind(-1)
    high, low = colours.amax(-1), colours.amin(-1)
    span = (high - low).clamp(min=1e-6)
    sector = torch.where(
        high == r, ((g - b) / span) % 6, torch.where(high == g, (b - r) / span + 2, (r - g) / span + 4)
    )
    return 60 * sector, high


def check_world_pictures(pictures: Tensor, prompts: Sequence[str] | None = None) -> None:
    """Raise ValueError as check_pictures, and for another size than the world's."""
    if pictures.shape[2:] != (PIXELS, PIXELS):
        raise ValueError(f"pictures must be [B, 3, {PIXELS}, {PIXELS}], got {list(pictures.shape)}; resize them first")
    check_pictures(pictures, prompts)


@torch.no_grad()
def read(pictures: Tensor) -> Reading:
    """Read pictures [B, 3, 32, 32] in [0, 1] on the CPU; without gradient. Raises ValueError as check_world_pictures."""
    check_world_pictures(pictures)
    parts = [_read(part) for part in pictures.float().split(256)]
    scenes = Scenes(*(torch.cat(values) for values in zip(*(part.scenes for part in parts), strict=True)))
    return Reading(torch.cat([p.number for p in parts]), scenes, torch.cat([p.residual for p in parts]))


def _read(pictures: Tensor) -> Reading:
    count = len(pictures)
    frame = torch.ones(PIXELS, PIXELS, dtype=torch.bool)
    frame[2:-2, 2:-2] = False
    ground = pictures[:, :, frame].median(-1).values
    contrast = (pictures - ground[:, :, None, None]).norm(dim=1)
    patches = _patches(contrast > VISIBLE)
    rows = torch.arange(count)
    areas = torch.zeros(count, PIXELS * PIXELS + 1).scatter_add_(
        1, patches.flatten(1).long(), torch.ones(count, PIXELS * PIXELS)
    )
    areas[:, 0] = 0
    found = (areas >= SMALLEST_AREA).sum(1)
    largest = areas.topk(2, 1).indices
    found_things = [_fit(pictures, ground, contrast, patches == largest[:, k, None, None].float()) for k in range(2)]
    # where there is no second object, its entries repeat the first
    alone = areas[rows, largest[:, 1]] < SMALLEST_AREA
    stacked = {}
    for name in ("colour", "shape", "hue", "brightness", "centre", "radius"):
        first, second = (thing[name] for thing in found_things)
        keep = alone.view(-1, *[1] * (first.dim() - 1))
        stacked[name] = torch.stack([first, torch.where(keep, first, second)], 1)
    brightness = ground.mean(1)
    scenes = Scenes(
        two=~alone,
        background=(brightness < 0.5).long(),
        background_brightness=brightness,
        softness=found_things[0]["softness"],
        **stacked,
    )
    residual = (render(scenes) - pictures).square().mean((1, 2, 3)).sqrt()
    return Reading(found, scenes, residual)


def _blurred(pictures: Tensor, sigma: float = 1.0) -> Tensor:
    """[B, C, H, W] under a Gaussian of sigma pixels."""
    bell = torch.exp(-0.5 * (torch.arange(-2.0, 3.0) / sigma).square())
    kernel = (bell[:, None] * bell)[None, None] / bell.sum().square()
    return conv2d(pictures.flatten(0, 1)[:, None], kernel, padding=2).view_as(pictures)


def _fit(pictures: Tensor, ground: Tensor, contrast: Tensor, patch: Tensor) -> dict[str, Tensor]:
    """Colour, shape and factors of the object in a patch [B, 32, 32] of each picture."""
    count = len(pictures)
    near = max_pool2d(patch[:, None].float(), 5, stride=1, padding=2)[:, 0]
    inside = patch & (contrast > 0.85 * (contrast * patch).amax((1, 2), keepdim=True))
    weight = inside.float() / inside.sum((1, 2), keepdim=True).clamp(min=1)
    paint = (pictures * weight[:, None]).sum((2, 3))
    hue, brightness = _hue_and_brightness(paint)
    off = (hue[:, None] - torch.tensor(list(COLOURS.values())) + 180) % 360 - 180
    colour = off.abs().argmin(1)
    towards = paint - ground
    covered = ((pictures - ground[:, :, None, None]) * towards[:, :, None, None]).sum(1)
    covered = (covered / towards.square().sum(1).clamp(min=1e-6)[:, None, None]).clamp(0, 1) * near
    area = covered.sum((1, 2)).clamp(min=1.0)
    places = torch.arange(PIXELS) + 0.5
    centre = torch.stack([(covered.sum(1) * places).sum(1), (covered.sum(2) * places).sum(1)], 1) / area[:, None]
    # area of each shape at radius 1: a triangle of circumradius R has 3√3/4 R²
    unit_area = torch.tensor([torch.pi, torch.pi, 3 * 3**0.5 / 4 * CIRCUMRADIUS**2])
    options = torch.cartesian_prod(torch.arange(3.0), torch.tensor([0.94, 1.0, 1.06]), torch.tensor([0.2, 0.4, 0.6]))
    shapes = options[:, 0].long()
    radii = (area[:, None] / unit_area[shapes]).sqrt() * options[:, 1]
    tried = coverage(
        shapes.repeat(count),
        centre.repeat_interleave(len(options), 0),
        radii.flatten(),
        options[:, 2].float().repeat(count),
    ).view(count, len(options), PIXELS, PIXELS)
    # an autoencoder rounds corners, as a blur does
    tried = torch.cat([tried, _blurred(tried)], 1)
    best = (tried - covered[:, None]).square().sum((2, 3)).argmin(1) % len(options)
    rows = torch.arange(count)
    return {
        "colour": colour,
        "shape": shapes[best],
        "hue": off[rows, colour],
        "brightness": brightness,
        "centre": centre,
        "radius": radii[rows, best],
        "softness": options[best, 2].float(),
    }


class Verdicts(NamedTuple):
    """Whether each picture has what its caption states, [B] true or false; what a caption leaves open is true.

    Attributes:
        number: one object or two.
        colour, shape, size, background: each as stated, for two objects with the better assignment of the two.
        relation: of two objects, whatever their colours and shapes; which is which is what fits the caption better.
        all: everything that the caption states.
    """

    number: Tensor
    colour: Tensor
    shape: Tensor
    size: Tensor
    background: Tensor
    relation: Tensor
    all: Tensor


def judge(pictures: Tensor, captions: Sequence[str]) -> Verdicts:
    """Hold pictures [B, 3, 32, 32] to their captions. Raises ValueError as `read` and `read_caption`."""
    return compare(read(pictures), [read_caption(caption) for caption in captions])


def compare(reading: Reading, stated: Sequence[Stated]) -> Verdicts:
    """Hold readings to what captions state."""
    scenes = reading.scenes
    rows = zip(
        reading.number.tolist(),
        scenes.colour.tolist(),
        scenes.shape.tolist(),
        scenes.radius[:, 0].tolist(),
        scenes.background.tolist(),
        scenes.centre.tolist(),
        stated,
        strict=True,
    )
    return Verdicts(*torch.tensor([_compare(*row) for row in rows]).view(-1, len(Verdicts._fields)).unbind(1))


def _compare(
    found: int,
    colours: list[int],
    shapes: list[int],
    radius: float,
    background: int,
    centres: list[list[float]],
    stated: Stated,
) -> tuple[bool, ...]:
    number = len(stated.things)
    right_number = found == number
    size = stated.size is None or (radius > SIZE_BORDER) == (stated.size == 1)
    ground = stated.background is None or background == stated.background
    # which object is which: the order in which more colours and shapes are right; ties count against the relation
    orders = [(0, 1), (1, 0)] if number == 2 else [(0,)]
    seen = []
    for order in orders:
        pairs = list(zip(order, stated.things, strict=True))
        right_colours = [colours[k] == thing.colour for k, thing in pairs]
        right_shapes = [shapes[k] == thing.shape for k, thing in pairs]
        right_relation = stated.relation is None or _relation(*(centres[k] for k in order)) == stated.relation
        seen.append((sum(right_colours) + sum(right_shapes), not right_relation, all(right_colours), all(right_shapes)))
    _, wrong_relation, colour, shape = max(seen)
    relation = stated.relation is None or (right_number and not wrong_relation)
    return (
        right_number,
        colour,
        shape,
        size,
        ground,
        relation,
        right_number and size and ground and colour and shape and relation,
    )


def _relation(first: list[float], second: list[float]) -> int:
    """Index into RELATIONS of the first centre to the second, along the longer way."""
    dx, dy = (b - a for a, b in zip(first, second, strict=True))
    horizontal = abs(dx) > abs(dy)
    name = ("left of" if dx > 0 else "right of") if horizontal else ("above" if dy > 0 else "below")
    return RELATIONS.index(name)
