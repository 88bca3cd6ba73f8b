"""Open land and water: fields, forest, river, beach, golf course, orchard."""

import numpy as np

from geofm_lib.scenes.canvas import CARS, REACH, Canvas
from geofm_lib.scenes.parts import (
    GROUNDS,
    clumps,
    curve,
    farmland,
    from_curve,
    grid,
    houses,
    open_ground,
    pick,
    road,
    scatter,
    surroundings,
    turn,
)


def fields(c: Canvas) -> None:
    """Plots of crops and ploughed soil, hedges, sometimes a track and a farm."""
    farmland(c, c.random.uniform(0.22, 0.6))
    if c.random.random() < 0.5:
        track = turn(curve(c, 0.1, c.random.uniform(-0.5, 0.5)), c.random.uniform(0, 3))
        road(c, track, 0.06, False, pick(c, ("soil", "asphalt")))
    if c.random.random() < 0.5:
        spot = scatter(c, 1, 0.8)
        houses(c, spot + c.random.normal(0, 0.14, (3, 2)), c.random.uniform(0, 3))
        c.trees(spot + c.random.normal(0, 0.22, (9, 2)), 0.06)
    c.trees(scatter(c, int(c.random.integers(0, 16))), 0.05)


def forest(c: Canvas) -> None:
    """Crowns without gaps but for a few clearings, sometimes a track or a stream."""
    c.ground(pick(c, ("tree", "grass", "dry")), pick(c, GROUNDS[:3]))
    track = turn(curve(c, 0.4, c.random.uniform(-0.6, 0.6)), c.random.uniform(0, 6.3))
    if c.random.random() < 0.45:
        road(c, track, c.random.uniform(0.03, 0.1), False, pick(c, ("soil", "asphalt", "water")))
    size = c.random.uniform(0.06, 0.115)
    steps = int(3.4 / (size * 1.45))
    places = grid(steps, steps, size * 1.45, size * 1.45) + c.random.normal(0, size * 0.5, (steps**2, 2))
    first, second, phase = c.random.normal(0, 1.6, 2), c.random.normal(0, 1.6, 2), 3 * c.random.random()
    wave = np.sin(places @ first + phase) + np.sin(places @ second)
    places = places[wave > c.random.uniform(-2.0, -0.7)]  # clearings
    c.trees(c.random.permutation(places), c.random.uniform(0.6, 1.15, len(places)) * size, height=1.0)


def river(c: Canvas) -> None:
    """Winding water with banks, sometimes a bridge."""
    open_ground(c)
    width, line = c.random.uniform(0.14, 0.5), curve(c, 0.5)
    c.stroke(line, width * c.random.uniform(1.1, 1.45), c.vary(pick(c, ("sand", "grass", "soil")), 12))
    c.stroke(line, width, c.vary("water", 16))
    far = from_curve(line)
    if c.random.random() < 0.5:
        x = c.random.uniform(-0.5, 0.5)
        bridge = [(x, -REACH), (x + c.random.uniform(-0.4, 0.4), REACH)]
        road(c, bridge, c.random.uniform(0.08, 0.13))
    surroundings(c, far, width * 0.75)
    bank = line[c.random.integers(len(line), size=30)] + [0, 1] * (c.random.choice([-1, 1], (30, 1)) * width * 0.75)
    c.trees(bank + c.random.normal(0, 0.05, (30, 2)), 0.06)


def beach(c: Canvas) -> None:
    """Sea, surf, a strip of sand, and land behind it."""
    open_ground(c)
    line = curve(c, 0.3, c.random.uniform(-0.25, 0.25))
    below = [(REACH, REACH * 1.3), (-REACH, REACH * 1.3)]
    sand = c.random.uniform(0.18, 0.5)
    c.polygon([*(line - [0, sand]), *below], c.vary("sand", 14))
    c.polygon([*line, *below], c.vary("water", 20))
    for k in range(int(c.random.integers(1, 4))):  # surf
        crest = line[:: 1 + k] + [0, 0.03 + 0.1 * k + c.random.uniform(0, 0.04)]
        width = c.random.uniform(0.01, 0.035)
        c.stroke(crest + c.random.normal(0, 0.012, crest.shape), width, c.vary("paint", 14))
    surroundings(c, lambda p: np.interp(p[:, 0], line[:, 0], line[:, 1]) - sand - p[:, 1], 0.02)
    if c.random.random() < 0.5:
        spots = line[c.random.integers(len(line), size=14)]
        spots[:, 1] -= c.random.uniform(0.05, sand, 14)
        for x, y in spots:
            c.disc(x, y, 0.018, tuple(map(int, CARS[c.random.integers(len(CARS))])))


def golf_course(c: Canvas) -> None:
    """Mown fairways, bunkers, clumps of trees, sometimes a pond and a path."""
    c.ground(pick(c, ("grass", "dry", "tree")), pick(c, ("grass", "dry")))
    mown = tuple(int(min(255, v * c.random.uniform(1.08, 1.25))) for v in c.colour["grass"])
    for _ in range(int(c.random.integers(2, 4))):
        line = turn(curve(c, 0.35, c.random.uniform(-0.9, 0.9)), c.random.uniform(0, 3))
        c.stroke(line[4:-4], c.random.uniform(0.22, 0.4), c.vary(mown, 5))
        x, y = line[int(c.random.integers(9, 19))]
        c.blob(x, y, c.random.uniform(0.1, 0.17), c.vary(tuple(int(min(255, v * 1.12)) for v in mown), 4), 1.3)
    for x, y in scatter(c, int(c.random.integers(3, 8)), 1.0):
        c.blob(x, y, c.random.uniform(0.04, 0.1), c.vary("sand", 10), c.random.uniform(1, 1.8), 0.5)
    if c.random.random() < 0.5:
        pond = scatter(c, 1, 0.8)[0]
        c.blob(pond[0], pond[1], c.random.uniform(0.12, 0.3), c.vary("water", 14), 1.4)
    if c.random.random() < 0.7:
        c.stroke(turn(curve(c, 0.5), c.random.uniform(0, 3)), 0.025, c.vary("concrete"))
    c.trees(clumps(c, int(c.random.integers(30, 130)), c.random.uniform(0.1, 0.3)), c.random.uniform(0.04, 0.075))


def orchard(c: Canvas) -> None:
    """Small trees on a regular grid."""
    c.ground(pick(c, GROUNDS[:5]), pick(c, GROUNDS[:5]))
    pitch = c.random.uniform(0.13, 0.26)
    stretch = c.random.uniform(1.0, 1.5)
    n = int(3.6 / pitch)
    places = grid(n, int(n / stretch), pitch, pitch * stretch)
    places = places + c.random.normal(0, pitch * 0.03, places.shape)
    places = places[c.random.random(len(places)) < c.random.uniform(0.88, 1.0)]
    y = c.random.uniform(-0.6, 0.6)
    if c.random.random() < 0.6:
        c.stroke([(-REACH, y), (REACH, y)], 0.07, c.vary("soil"))
        places = places[np.abs(places[:, 1] - y) > 0.06]
    if c.random.random() < 0.4:
        spot = scatter(c, 1, 0.9)
        places = places[np.linalg.norm(places - spot, axis=1) > 0.3]
        houses(c, spot, 0.0)
    c.trees(places, pitch * c.random.uniform(0.26, 0.44) * c.random.uniform(0.85, 1.1, len(places)))
