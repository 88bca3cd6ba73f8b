"""Ways and where they meet: runway, harbour, roundabout, intersection."""

import numpy as np

from geofm_lib.scenes.canvas import CARS, REACH, Canvas
from geofm_lib.scenes.parts import GROUNDS, cars, from_arms, open_ground, pick, road, scatter, surroundings, turn


def runway(c: Canvas) -> None:
    """A marked strip, often with a taxiway, sometimes with an aircraft."""
    open_ground(c)
    width, y = c.random.uniform(0.2, 0.42), c.random.uniform(-0.25, 0.25)
    c.stroke([(-REACH, y), (REACH, y)], width, c.vary(pick(c, ("asphalt", "concrete")), 12))
    paint = c.vary("paint", 8)
    c.dashes((-REACH, y), (REACH, y), int(c.random.integers(9, 16)), 0.018, paint, 0.6)
    for side in (-1, 1):
        c.stroke([(-REACH, y + side * width * 0.44), (REACH, y + side * width * 0.44)], 0.01, paint)
    if c.random.random() < 0.6:  # the threshold
        x = c.random.uniform(-0.8, 0.8)
        for t in np.linspace(-0.36, 0.36, 8) * width:
            c.stroke([(x, y + t), (x + 0.2, y + t)], width * 0.045, paint)
    if c.random.random() < 0.75:  # a taxiway beside it, and a link
        off = c.random.choice([-1, 1]) * c.random.uniform(0.5, 0.8)
        grey, x = c.vary(pick(c, ("asphalt", "concrete")), 10), c.random.uniform(-0.6, 0.6)
        c.stroke([(-REACH, y + off), (REACH, y + off)], 0.13, grey)
        c.stroke([(x, y), (x + c.random.uniform(-0.5, 0.5), y + off)], 0.12, grey)
    if c.random.random() < 0.5:
        _plane(c, c.random.uniform(-0.6, 0.6), y, pick(c, (0.0, np.pi)), width * c.random.uniform(0.5, 0.9))
    surroundings(c, lambda p: np.abs(p[:, 1] - y), c.random.uniform(0.85, 1.2))


def _plane(c: Canvas, x: float, y: float, angle: float, size: float) -> None:
    white = c.vary("paint", 8)
    c.boxes((x, y), (size, size * 0.12), angle, white, 0.05, "plain")
    wing = np.array([(0.12, 0.0), (-0.18, 0.5), (-0.28, 0.5), (-0.1, 0.0), (-0.28, -0.5), (-0.18, -0.5)])
    tail = np.array([(-0.4, 0.0), (-0.5, 0.18), (-0.55, 0.18), (-0.48, 0.0), (-0.55, -0.18), (-0.5, -0.18)])
    for part in (wing, tail):
        c.polygon(turn(part * size, angle) + [x, y], white)


def harbour(c: Canvas) -> None:
    """Piers with boats along a quay."""
    c.ground("water", "water")
    quay = c.random.uniform(-1.0, -0.3)
    c.polygon([(-REACH, -REACH), (REACH, -REACH), (REACH, quay), (-REACH, quay)], c.vary(pick(c, GROUNDS), 10))
    c.stroke([(-REACH, quay), (REACH, quay)], 0.07, c.vary("concrete"))
    reach, pitch, length = c.random.uniform(0.5, 1.4), c.random.uniform(0.44, 0.95), c.random.uniform(0.12, 0.22)
    full, gap = c.random.uniform(0.35, 1.0), c.random.uniform(0.06, 0.1)
    piers = np.arange(-1.8, 1.9, pitch) + c.random.uniform(0, pitch)
    piers = piers[c.random.random(len(piers)) < 0.85]
    c.strokes([[(x, quay), (x, quay + reach)] for x in piers], 0.03, c.vary("concrete"))
    berths = np.arange(quay + 0.1, quay + reach, gap)
    x, y = (grid.ravel() for grid in np.meshgrid([p + s * (0.02 + length / 2) for p in piers for s in (-1, 1)], berths))
    boats = np.stack([x, y], 1)[c.random.random(len(x)) < full]
    boats = np.concatenate([boats, scatter(c, 3, 1.0) * [1, 0.3] + [0, quay + reach + 0.45]])
    _boats(c, boats, length)
    surroundings(c, lambda p: quay - p[:, 1], 0.05)


def _boats(c: Canvas, places: np.ndarray, length: float) -> None:
    n = len(places)
    hull = CARS[c.random.choice([0, 0, 0, 1, 3, 5], n)]
    c.boxes(places, np.array([length, 0.045]) * c.random.uniform(0.6, 1.0, (n, 1)), 0.0, hull, 0.02, "plain")
    c.boxes(places, (length * 0.3, 0.024), 0.0, c.vary((150, 130, 110), 25), 0.0, "plain")


def roundabout(c: Canvas) -> None:
    """A ring of road with three to five arms."""
    open_ground(c)
    ring, width, arms = c.random.uniform(0.25, 0.5), c.random.uniform(0.11, 0.17), int(c.random.integers(3, 6))
    angles = np.linspace(0, 2 * np.pi, arms, endpoint=False) + c.random.normal(0, 0.13, arms)
    tips = np.stack([np.cos(angles), np.sin(angles)], 1)
    for tip in tips:
        road(c, [tip * ring, tip * 2.6], width)
    c.disc(0, 0, ring + width * 0.75, c.vary("dry"))
    c.disc(0, 0, ring + width * 0.6, c.vary("asphalt", 6))
    c.disc(0, 0, ring - width * 0.45, c.vary("concrete"))
    c.disc(0, 0, ring - width * 0.55, c.vary(pick(c, ("grass", "dry", "soil", "concrete"))))
    if c.random.random() < 0.7:
        c.trees(c.random.normal(0, ring * 0.28, (int(c.random.integers(1, 8)), 2)), c.random.uniform(0.05, 0.09))
    n = int(c.random.integers(0, 7))
    at = c.random.uniform(0, 6.3, n)
    cars(c, np.stack([np.cos(at), np.sin(at)], 1) * (ring + 0.03), at + np.pi / 2)
    surroundings(c, from_arms(tips, ring + width), width)


def intersection(c: Canvas) -> None:
    """Three or four roads that meet, often with zebra crossings."""
    open_ground(c)
    width, arms = c.random.uniform(0.13, 0.3), int(c.random.integers(3, 5))
    angles = np.arange(arms) * np.pi / 2 + c.random.normal(0, 0.12, arms)
    tips = np.stack([np.cos(angles), np.sin(angles)], 1)
    for tip in tips:
        road(c, [tip * width * 0.7, tip * 2.6], width)
    grey = c.vary("asphalt", 6)
    for tip in tips:
        c.stroke([(0, 0), tip * width * 0.9], width, grey)
    zebra = c.random.random() < 0.6
    for tip in tips:
        across = np.array([-tip[1], tip[0]])
        if zebra:
            bars = across * (np.linspace(-0.42, 0.42, 7)[:, None, None] * width)
            c.strokes(bars + [tip * width * 0.85, tip * width * 1.1], 0.014, c.colour["paint"])
        n = int(c.random.integers(0, 4))
        spots = tip * (width + 0.1 + 0.11 * np.arange(n)[:, None]) + across * width * 0.25
        cars(c, spots, np.arctan2(tip[1], tip[0]))
    surroundings(c, from_arms(tips, width * 0.5), width * 0.75)
