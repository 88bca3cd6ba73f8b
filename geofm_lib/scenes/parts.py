"""What many scenes share: places, lines and distances, then roads, cars, roofs, farmland and surroundings.

Most scenes hold things of other classes too (homes, trees, tracks, ponds), and their grounds come from one list. So
neither colours nor single things give the class away. Frozen: see generate.GENERATOR_VERSION.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from geofm_lib.scenes.canvas import CARS, REACH, ROOFS, Canvas

GROUNDS = ("grass", "dry", "soil", "crop", "stubble", "concrete")
Distance = Callable[[np.ndarray], np.ndarray]  # points [n, 2] -> [n]
Choice = TypeVar("Choice")


def pick(c: Canvas, options: Sequence[Choice]) -> Choice:
    """One of some things."""
    return options[int(c.random.integers(len(options)))]


def scatter(c: Canvas, n: int, reach: float = REACH) -> np.ndarray:
    """n random places [n, 2]."""
    return c.random.uniform(-reach, reach, (n, 2))


def clumps(c: Canvas, n: int, spread: float) -> np.ndarray:
    """n places in a few clumps [n, 2]."""
    centres = scatter(c, max(1, n // 12), 1.6)
    return centres[c.random.integers(len(centres), size=n)] + c.random.normal(0, spread, (n, 2))


def grid(nx: int, ny: int, dx: float, dy: float) -> np.ndarray:
    """Centres of a centred grid [nx*ny, 2]."""
    x, y = np.meshgrid((np.arange(nx) - (nx - 1) / 2) * dx, (np.arange(ny) - (ny - 1) / 2) * dy, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], 1)


def turn(points: ArrayLike, angle: float) -> np.ndarray:
    """Points [n, 2] turned about the middle."""
    s, k = np.sin(angle), np.cos(angle)
    return np.asarray(points) @ np.array([[k, s], [-s, k]])


def curve(c: Canvas, bend: float, y: float = 0.0) -> np.ndarray:
    """A winding line from left to right through (0, y): [n, 2]."""
    x = np.linspace(-REACH, REACH, 28)
    wave = sum(
        c.random.uniform(-bend, bend) / k * np.sin(k * x * c.random.uniform(0.8, 1.5) + c.random.uniform(0, 6.3))
        for k in (1, 2, 3)
    )
    return np.stack([x, y + wave], 1)


def from_curve(line: np.ndarray) -> Distance:
    """Distance of points from a winding line, upwards or downwards."""
    return lambda points: np.abs(points[:, 1] - np.interp(points[:, 0], line[:, 0], line[:, 1]))


def from_rectangle(w: float, h: float) -> Distance:
    """Distance of points from a rectangle around the middle, `w` and `h` half its sides."""
    return lambda points: np.max(np.abs(points) - [w, h], axis=1)


def from_arms(tips: np.ndarray, ring: float) -> Distance:
    """Distance of points [n, 2] from a junction's arms (rays along `tips`) and its middle disc."""

    def distance(points: np.ndarray) -> np.ndarray:
        along = points @ tips.T
        ray = np.where(along > 0, np.abs(points @ np.stack([-tips[:, 1], tips[:, 0]])), np.inf).min(1)
        return np.minimum(ray, np.linalg.norm(points, axis=1) - ring)

    return distance


def road(c: Canvas, line: ArrayLike, width: float, marks: bool = True, colour: str = "asphalt") -> None:
    """A strip along `line` [n, 2] with verges, and with a dashed line in its middle if it is wide."""
    c.stroke(line, width * 1.25, c.vary("dry", 12))
    c.stroke(line, width, c.vary(colour, 8))
    if marks and width > 0.08:
        ends = np.asarray(line, float)
        if len(ends) == 2:
            c.dashes(ends[0], ends[1], int(np.hypot(*(ends[1] - ends[0])) / 0.13), 0.008, c.colour["paint"])
        else:
            c.strokes(np.stack([ends[:-1], (ends[:-1] + ends[1:]) / 2], 1), 0.008, c.colour["paint"])


def cars(c: Canvas, points: ArrayLike, angles: ArrayLike) -> None:
    """Cars at points [n, 2]."""
    places = np.asarray(points, float).reshape(-1, 2)
    n = len(places)
    shape = np.array([0.075, 0.034]) * c.random.uniform(0.9, 1.15, (n, 1))
    c.boxes(places, shape, angles, CARS[c.random.integers(len(CARS), size=n)], 0.012, "plain")


def houses(c: Canvas, points: ArrayLike, angles: ArrayLike, size: tuple[float, float] = (0.13, 0.24)) -> None:
    """Roofs at points [n, 2], with sides between the two of `size`."""
    places = np.asarray(points, float).reshape(-1, 2)
    n = len(places)
    shape = c.random.uniform(size[0], size[1], (n, 2)) * [1.15, 0.85]
    colours, height = roof_colours(c, n, 10, 245), c.random.uniform(0.03, 0.07)
    c.boxes(places, shape, angles, colours, height, "gable" if c.random.random() < 0.8 else "flat")


def roof_colours(c: Canvas, n: int, least: int, most: int) -> np.ndarray:
    """Red, green and blue of n roofs [n, 3]."""
    return np.clip(ROOFS[c.random.integers(len(ROOFS), size=n)] + c.random.normal(0, 9, (n, 1)), least, most)


def plots(c: Canvas, least: float, reach: float = REACH) -> list[tuple[float, float, float, float]]:
    """Cut a square again and again: rectangles (x0, y0, x1, y1) with sides of about `least` or more."""
    todo, done = [(-reach, -reach, reach, reach)], []
    while todo:
        x0, y0, x1, y1 = todo.pop()
        w, h = x1 - x0, y1 - y0
        if max(w, h) < 2 * least or (max(w, h) < 4 * least and c.random.random() < 0.2):
            done.append((x0, y0, x1, y1))
            continue
        cut = c.random.uniform(0.3, 0.7)
        if w > h:
            todo += [(x0, y0, x0 + w * cut, y1), (x0 + w * cut, y0, x1, y1)]
        else:
            todo += [(x0, y0, x1, y0 + h * cut), (x0, y0 + h * cut, x1, y1)]
    return done


def farmland(c: Canvas, least: float, striped: float = 0.6) -> None:
    """Plots of one angle: crops, ploughed soil, rows, hedges."""
    angle = c.random.uniform(0, np.pi)
    hedge = c.vary("tree", 14) if c.random.random() < 0.4 else c.vary("dry", 8)
    hedge_width = c.random.uniform(0.01, 0.035)
    for x0, y0, x1, y1 in plots(c, least):
        corners = turn([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], angle)
        if not c.inside(corners.mean(0, keepdims=True), 0.75 * max(x1 - x0, y1 - y0)).any():
            continue
        base = c.vary(pick(c, GROUNDS[:5]), 14)
        c.polygon(corners, base)
        if c.random.random() < striped:
            along = c.random.random() < 0.5
            gap = c.random.uniform(0.045, 0.11)
            row = tuple(int(v * c.random.uniform(0.82, 0.93)) for v in base)
            t = np.arange(gap / 2, (y1 - y0) if along else (x1 - x0), gap)
            low, high = np.full(len(t), x0 if along else y0), np.full(len(t), x1 if along else y1)
            ends = [[low, y0 + t], [high, y0 + t]] if along else [[x0 + t, low], [x0 + t, high]]
            c.strokes(turn(np.array(ends).transpose(2, 0, 1), angle), gap * 0.4, row)
        c.stroke(corners[[0, 1, 2, 3, 0]], hedge_width, hedge)


def surroundings(c: Canvas, distance: Distance, least: float) -> None:
    """Trees, houses or both around something that must stay free: distance(points) > least."""
    kind = c.random.random()
    if kind < 0.65:
        places = grid(9, 9, 0.42, 0.42) + c.random.normal(0, 0.05, (81, 2))
        places = places[distance(places) > least + 0.14]
        keep = places[c.random.random(len(places)) < c.random.uniform(0.15, 0.8)]
        houses(c, keep, c.random.uniform(0, np.pi) + np.pi / 2 * c.random.integers(2, size=len(keep)))
    n = int(c.random.integers(10, 110))
    places = clumps(c, n, c.random.uniform(0.1, 0.5)) if c.random.random() < 0.5 else scatter(c, n)
    places = places[distance(places) > least + 0.05]
    c.trees(places, c.random.uniform(0.035, 0.085, len(places)))


def open_ground(c: Canvas) -> None:
    """Any ground: one material with patches of another, or farmland."""
    if c.random.random() < 0.3:
        farmland(c, c.random.uniform(0.35, 0.8), 0.3)
    else:
        c.ground(pick(c, GROUNDS), pick(c, GROUNDS[:5]))
