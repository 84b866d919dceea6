"""Pictures of one or two simple objects, 32 × 32, rendered from a seed, with captions from a small grammar.

A caption states attributes: colour, shape, size, background, relation. Within what it states, factors vary continuously:
position, size and hue within their class, brightness, softness of edges. Some combinations of attributes are held out.
"""

from __future__ import annotations

import math
import re
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

PIXELS = 32
COLOURS = {"red": 0.0, "yellow": 55.0, "green": 125.0, "blue": 225.0}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": (4.4, 5.2), "large": (7.2, 8.6)}
BACKGROUNDS = {"light": (0.78, 1.0), "dark": (0.0, 0.22)}
RELATIONS = ("left of", "right of", "above", "below")
HUE_RANGE = 10.0
BRIGHTNESS = (0.75, 1.0)
SOFTNESS = (0.2, 0.6)
SATURATION = 0.9
CIRCUMRADIUS = 1.3  # of a triangle of radius 1
SHARE_OF_TWO = 0.6  # of training scenes with two objects
CAPTION = re.compile(
    r"a (?:(?P<size>{sizes}) )?(?P<colour>{colours}) (?P<shape>{shapes})"
    r"(?: (?P<relation>{relations}) a (?P<colour_2>{colours}) (?P<shape_2>{shapes}))?"
    r"(?: on a (?P<background>{backgrounds}) background)?".format(
        sizes="|".join(SIZES),
        colours="|".join(COLOURS),
        shapes="|".join(SHAPES),
        relations="|".join(RELATIONS),
        backgrounds="|".join(BACKGROUNDS),
    )
)
WORDS = ("a", "on", "of", "background", *SIZES, *COLOURS, *SHAPES, *BACKGROUNDS, "left", "right", "above", "below")


class Thing(NamedTuple):
    """Colour and shape of an object, as indices into COLOURS and SHAPES."""

    colour: int
    shape: int


class Stated(NamedTuple):
    """What a caption states, as indices; None where it leaves something open.

    Attributes:
        things: one object or two.
        size: of the only object; two objects have no stated size.
        relation: of the first object to the second.
    """

    things: tuple[Thing, ...]
    size: int | None = None
    relation: int | None = None
    background: int | None = None


def caption_of(stated: Stated) -> str:
    """The caption that states this and nothing else."""
    first, *rest = (f"{list(COLOURS)[thing.colour]} {SHAPES[thing.shape]}" for thing in stated.things)
    words = ["a"]
    if stated.size is not None:
        words.append(list(SIZES)[stated.size])
    words.append(first)
    if rest and stated.relation is not None:
        words += [RELATIONS[stated.relation], "a", *rest]
    if stated.background is not None:
        words += ["on a", list(BACKGROUNDS)[stated.background], "background"]
    return " ".join(words)


def read_caption(caption: str) -> Stated:
    """What a caption states. Raises ValueError if the grammar does not know it."""
    match = CAPTION.fullmatch(caption)
    if match is None or (match["size"] and match["relation"]):
        unknown = [word for word in caption.split() if word not in WORDS]
        why = f"the word {unknown[0]!r} is unknown" if unknown else "its words are in no known order"
        raise ValueError(
            f"caption {caption!r} cannot be read: {why}; write, for example, 'a small red circle on a dark background' or "
            "'a red circle left of a blue square'"
        )

    def index(name: str, among: tuple[str, ...]) -> int | None:
        return among.index(match[name]) if match[name] else None

    colours, sizes, backgrounds = tuple(COLOURS), tuple(SIZES), tuple(BACKGROUNDS)
    things = [Thing(colours.index(match["colour"]), SHAPES.index(match["shape"]))]
    if match["relation"]:
        things.append(Thing(colours.index(match["colour_2"]), SHAPES.index(match["shape_2"])))
    return Stated(tuple(things), index("size", sizes), index("relation", RELATIONS), index("background", backgrounds))


@cache
def combinations() -> dict[str, tuple[Stated, ...]]:
    """All combinations of attributes, fully stated, in four groups: "one" and "two" objects for training, and "one held
    out" (8 of 48) and "two held out" (132 of 1056).

    Held-out scenes are never drawn for training, under any caption. "Red circle left of blue square" is the same scene as
    "blue square right of red circle": both are held out, or neither.
    """
    groups: dict[str, list[Stated]] = {"one": [], "two": [], "one held out": [], "two held out": []}
    things = [Thing(*pair) for pair in product(range(len(COLOURS)), range(len(SHAPES)))]
    for thing, size, background in product(things, range(len(SIZES)), range(len(BACKGROUNDS))):
        held_out = (thing.colour + 2 * thing.shape + 3 * size + 5 * background) % 6 == 0
        groups["one held out" if held_out else "one"].append(Stated((thing,), size, None, background))
    for first, second, relation, background in product(things, things, range(len(RELATIONS)), range(len(BACKGROUNDS))):
        if first != second:
            # right of and below are read from the other end, so that both captions of a scene share its fate
            a, b = (first, second) if relation in (0, 2) else (second, first)
            held_out = (a.colour + 3 * a.shape + 2 * b.colour + 5 * b.shape + relation // 2) % 8 == 0
            group = "two held out" if held_out else "two"
            groups[group].append(Stated((first, second), None, relation, background))
    return {name: tuple(group) for name, group in groups.items()}


class Scenes(NamedTuple):
    """A batch of scenes: attributes as indices and factors as numbers; of a second object that is not there, the first.

    Attributes:
        two: whether there is a second object, [B].
        background: index into BACKGROUNDS, [B].
        background_brightness: grey value of the background, [B].
        colour, shape: [B, 2].
        hue: degrees off the colour's own hue, [B, 2].
        brightness: [B, 2].
        centre: of mass, (x, y) in pixels from the upper left corner, [B, 2, 2].
        radius: of a circle, or of the square of the circle's area; a triangle's circumradius is CIRCUMRADIUS times it,
            [B, 2].
        softness: width of the edges in pixels, [B].
    """

    two: Tensor
    background: Tensor
    background_brightness: Tensor
    colour: Tensor
    shape: Tensor
    hue: Tensor
    brightness: Tensor
    centre: Tensor
    radius: Tensor
    softness: Tensor


def lay_out(stated: list[Stated], rng: torch.Generator) -> Scenes:
    """Scenes of these fully stated combinations, with factors drawn within what they state."""
    count = len(stated)

    def uniform(low: Tensor | float, high: Tensor | float, *shape: int) -> Tensor:
        return low + (torch.as_tensor(high) - low) * torch.rand(count, *shape, generator=rng)

    two = torch.tensor([len(s.things) == 2 for s in stated])
    pairs = [(s.things[0], s.things[-1]) for s in stated]
    colour, shape = (torch.tensor([[thing[k] for thing in pair] for pair in pairs]) for k in (0, 1))
    background = torch.tensor([s.background for s in stated])
    brightness_of_backgrounds = torch.tensor(list(BACKGROUNDS.values()))[background]
    sizes = torch.tensor(list(SIZES.values()))[torch.tensor([s.size or 0 for s in stated])]
    middle, slack = PIXELS / 2, 2.0 + 6.0 * (sizes[:, 0] < 6)
    alone = middle + (2 * torch.rand(count, 2, generator=rng) - 1) * slack[:, None] * 0.9
    near, far = uniform(7.2, 9.2), PIXELS - uniform(7.2, 9.2)
    across = middle + uniform(-4, 4)[:, None] + uniform(-2.5, 2.5, 2)
    relation = torch.tensor([s.relation or 0 for s in stated])
    swapped, vertical = relation % 2 == 1, relation >= 2
    along = torch.stack([torch.where(swapped, far, near), torch.where(swapped, near, far)], 1)
    horizontal_pair = torch.stack([along, across], -1)
    pair = torch.where(vertical[:, None, None], horizontal_pair.flip(-1), horizontal_pair)
    radius = torch.stack([uniform(sizes[:, 0], sizes[:, 1]), uniform(*SIZES["small"])], 1)
    return Scenes(
        two=two,
        background=background,
        background_brightness=uniform(brightness_of_backgrounds[:, 0], brightness_of_backgrounds[:, 1]),
        colour=colour,
        shape=shape,
        hue=uniform(-HUE_RANGE, HUE_RANGE, 2),
        brightness=uniform(*BRIGHTNESS, 2),
        centre=torch.where(two[:, None, None], pair, alone[:, None].expand(-1, 2, -1)),
        radius=radius,
        softness=uniform(*SOFTNESS),
    )


def coverage(shape: Tensor, centre: Tensor, radius: Tensor, softness: Tensor) -> Tensor:
    """How much of each pixel an object covers: shape [N], centre [N, 2], radius [N], softness [N] -> [N, 32, 32].

    A pixel at signed distance d outside the outline is covered by 1/(1 + exp(d/softness)).
    """
    places = torch.arange(PIXELS) + 0.5
    x = (places - centre[:, :1])[:, None, :]
    y = (places - centre[:, 1:])[:, :, None]
    radius = radius[:, None, None]
    circle = (x.square() + y.square()).sqrt() - radius
    square = torch.maximum(x.abs(), y.abs()) - radius * math.sqrt(math.pi) / 2
    slanted = x.abs() * math.cos(math.pi / 6) - y * math.sin(math.pi / 6)
    triangle = torch.maximum(slanted, y.expand_as(slanted)) - CIRCUMRADIUS * radius / 2
    outside = torch.stack([circle, square.expand_as(circle), triangle], 1)
    distance = outside[torch.arange(len(shape)), shape]
    return torch.sigmoid(-distance / softness[:, None, None])


def rgb(hue: Tensor, brightness: Tensor) -> Tensor:
    """Colours of hue in degrees and brightness (HSV value) at the world's saturation: [...] -> [..., 3]."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + hue[..., None] / 60) % 6
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    return brightness[..., None] * (1 - SATURATION * ramp)


def render(scenes: Scenes) -> Tensor:
    """The pictures, [B, 3, 32, 32] in [0, 1]."""
    own_hue = torch.tensor(list(COLOURS.values()))
    pictures = scenes.background_brightness[:, None, None, None].expand(-1, 3, PIXELS, PIXELS)
    for k in range(2):
        covered = coverage(scenes.shape[:, k], scenes.centre[:, k], scenes.radius[:, k], scenes.softness)
        covered = (covered * (scenes.two[:, None, None] if k else 1.0))[:, None]
        paint = rgb(own_hue[scenes.colour[:, k]] + scenes.hue[:, k], scenes.brightness[:, k])
        pictures = pictures * (1 - covered) + paint[:, :, None, None] * covered
    return pictures


def training_scenes(count: int, rng: torch.Generator) -> tuple[Scenes, list[str]]:
    """Scenes for training with a caption each; nothing held out. A caption may leave out background and size."""
    groups = combinations()
    is_two = torch.rand(count, generator=rng) < SHARE_OF_TWO
    pick = torch.rand(count, generator=rng)
    omit = torch.rand(count, 2, generator=rng) < torch.tensor([0.3, 0.2])
    stated, captions = [], []
    for two, u, (no_background, no_size) in zip(is_two.tolist(), pick.tolist(), omit.tolist(), strict=True):
        group = groups["two" if two else "one"]
        whole = group[int(u * len(group))]
        stated.append(whole)
        short = whole._replace(background=None) if no_background else whole
        captions.append(caption_of(short._replace(size=None) if no_size else short))
    return lay_out(stated, rng), captions


DRAWS = 500
FIRST_SEED = 10_000  # the recipe was chosen on other draws, with seeds from 0
GROUPS = {"one": "one object", "two": "two objects"}


class Draws(NamedTuple):
    """A fixed list of draws: what is stated, its captions and seeds, [N] each."""

    stated: list[Stated]
    captions: list[str]
    seeds: list[int]


def held_out_draws(group: str, count: int = DRAWS) -> Draws:
    """Draw k has held-out caption k modulo their number and seed FIRST_SEED + k; group "one" or "two"."""
    known = combinations()[f"{group} held out"]
    stated = [known[k % len(known)] for k in range(count)]
    return Draws(stated, [caption_of(one) for one in stated], list(range(FIRST_SEED, FIRST_SEED + count)))


def both_groups(count: int) -> Draws:
    """`count` held-out draws with one object, then as many with two."""
    one, two = (held_out_draws(group, count) for group in GROUPS)
    return Draws(one.stated + two.stated, one.captions + two.captions, one.seeds + two.seeds)
