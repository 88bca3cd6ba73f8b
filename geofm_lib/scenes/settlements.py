"""Where people live and work: homes, industry, car parks, solar panels, tanks."""

import numpy as np

from geofm_lib.scenes.canvas import CARS, REACH, ROOFS, Canvas, Colour
from geofm_lib.scenes.parts import (
    GROUNDS,
    cars,
    clear,
    clumps,
    curve,
    from_curve,
    from_rectangle,
    grid,
    houses,
    open_ground,
    pick,
    plots,
    road,
    scatter,
    surroundings,
    turn,
)


def dense_residential(c: Canvas) -> None:
    """Rows of houses, back to back along parallel streets."""
    c.ground(pick(c, ("grass", "dry", "concrete", "soil")), pick(c, ("grass", "dry", "concrete")))
    pitch, rows = c.random.uniform(0.17, 0.24), c.random.uniform(0.52, 0.68)
    y = np.arange(-3, 4) * rows
    for street in y:
        road(c, [(-REACH, street), (REACH, street)], 0.1, False)
    places = grid(int(3.6 / pitch), 14, pitch, rows / 2) + c.random.normal(0, 0.012, (int(3.6 / pitch) * 14, 2))
    places[:, 1] += np.where(np.arange(len(places)) % 2, 0.02, -0.02)  # back yards
    places = places[c.random.random(len(places)) < 0.94]
    houses(c, places, c.random.choice([0, np.pi / 2], len(places)), (pitch * 0.62, pitch * 0.85))
    cars(c, np.stack([c.random.uniform(-1.6, 1.6, 24), c.random.choice(y, 24) + 0.03], 1), 0.0)
    if c.random.random() < 0.7:
        x = c.random.uniform(-0.5, 0.5)
        road(c, [(x, -REACH), (x, REACH)], 0.12)
    c.trees(scatter(c, int(c.random.integers(15, 80)), 1.6), 0.05)


def sparse_residential(c: Canvas) -> None:
    """A few houses with drives along one winding road, many trees."""
    c.ground(pick(c, GROUNDS[:3]), pick(c, GROUNDS[:3]))
    line = curve(c, 0.35, c.random.uniform(-0.4, 0.4))
    road(c, line, 0.09, False)
    spots = np.stack([np.arange(-1.6, 1.7, c.random.uniform(0.55, 0.8)) + c.random.uniform(-0.2, 0.2)], 1)
    side = c.random.choice([-1, 1], len(spots)) * c.random.uniform(0.28, 0.5, len(spots))
    y = np.interp(spots[:, 0], line[:, 0], line[:, 1])
    places = np.stack([spots[:, 0], y + side], 1)
    for (x, yy), base in zip(places, y, strict=True):
        c.stroke([(x + 0.06, base), (x + 0.06, yy)], 0.035, c.vary("concrete"))
        if c.random.random() < 0.3:
            c.blob(x - 0.2, yy, 0.05, c.vary((84, 150, 170)), rough=0.1)
    houses(c, places, c.random.normal(0, 0.3, len(places)), (0.16, 0.27))
    n = int(c.random.integers(30, 160))
    trees = scatter(c, n, 1.8) if c.random.random() < 0.5 else clumps(c, n, 0.3)
    trees = clear(trees, from_curve(line), 0.08)
    trees = trees[np.linalg.norm(trees[:, None] - places[None], axis=2).min(1) > 0.2]
    c.trees(trees, c.random.uniform(0.04, 0.09, len(trees)))


def industrial(c: Canvas) -> None:
    """Large flat roofs with skylights, yards with lorries."""
    c.ground(pick(c, ("concrete", "asphalt", "soil", "grass")), pick(c, ("concrete", "asphalt", "dry")))
    corners = np.array(plots(c, c.random.uniform(0.4, 0.62), 1.7))
    middles, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    yard = c.random.random(len(corners)) < 0.25
    shapes = sides * c.random.uniform(0.62, 0.85, sides.shape)
    roofs = np.clip(
        ROOFS[c.random.integers(len(ROOFS), size=len(corners))] + c.random.normal(0, 9, (len(corners), 1)), 5, 250
    )
    c.boxes(middles[~yard], shapes[~yard], 0.0, roofs[~yard], c.random.uniform(0.06, 0.13))
    vents_of, lorries_of = [np.zeros((0, 4))], [np.zeros((0, 2))]  # each plot
    for middle, shape, is_yard in zip(middles, shapes, yard, strict=True):
        if is_yard:
            lorries_of.append(middle + grid(3, 4, *(shape * 0.25)))
        elif c.random.random() < 0.6:  # skylights or vents
            spots = grid(*c.random.integers(2, 6, 2), *(shape / 6.5))
            size = np.broadcast_to(shape * c.random.uniform(0.03, 0.1, 2), spots.shape)
            vents_of.append(np.hstack([middle + spots, size]))
    vents, lorries = np.concatenate(vents_of), np.concatenate(lorries_of)
    c.boxes(vents[:, :2], vents[:, 2:], 0.0, c.vary("concrete", 14), 0.012, "plain")
    lorries = lorries[c.random.random(len(lorries)) < 0.6]
    c.boxes(lorries, (0.14, 0.05), pick(c, (0, np.pi / 2)), c.random.choice(CARS, len(lorries)), 0.03, "plain")
    if c.random.random() < 0.6:
        x = c.random.uniform(-0.6, 0.6)
        road(c, [(x, -REACH), (x, REACH)], 0.14)
    c.trees(scatter(c, int(c.random.integers(0, 40))), 0.05)


def parking_lot(c: Canvas) -> None:
    """Rows of cars in marked bays."""
    c.ground(pick(c, GROUNDS), pick(c, GROUNDS))
    w, h = c.random.uniform(0.8, 1.7, 2)
    lot = np.array([(-w, -h), (w, -h), (w, h), (-w, h)])
    c.polygon(lot, c.vary(pick(c, ("asphalt", "asphalt", "concrete")), 10))
    aisle, bay, full = c.random.uniform(0.25, 0.34), c.random.uniform(0.05, 0.062), c.random.uniform(0.25, 0.95)
    x, y = np.arange(-w + 0.08, w - 0.08, bay), np.arange(-h + 0.1, h - 0.05, aisle)
    lines = np.stack(np.meshgrid(x[::2] + bay / 2, y), -1).reshape(-1, 1, 2)
    c.strokes(lines + [[0, -0.05], [0, 0.05]], 0.007, c.colour["paint"])
    spots = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    spots = spots[c.random.random(len(spots)) < full]
    cars(c, spots + c.random.normal(0, 0.004, spots.shape), np.pi / 2)
    if c.random.random() < 0.6:
        c.trees(grid(8, 1, w / 4, 0) + [0, c.random.uniform(-h, h)], 0.05)
    if c.random.random() < 0.6:
        c.boxes((0, -h - 0.35), (w * 1.5, 0.55), 0.0, c.vary(tuple(ROOFS[c.random.integers(len(ROOFS))])), 0.1, "flat")
    trees = clear(scatter(c, int(c.random.integers(5, 90))), from_rectangle(w, h), 0.05)
    c.trees(trees, 0.06)


def solar_farm(c: Canvas) -> None:
    """Rows of panels on both sides of a track."""
    open_ground(c)
    gap, depth = c.random.uniform(0.1, 0.19), c.random.uniform(0.5, 0.68)
    panel = c.vary("panel", 12)
    track = c.random.uniform(-0.5, 0.5)
    edge = c.random.uniform(0.6, 1.8, 4).tolist()  # below, above, left, right
    y = np.arange(-edge[0], edge[1], gap)
    for x0, x1 in ((-edge[2], track - 0.05), (track + 0.05, edge[3])):
        n = max(1, round((x1 - x0) / c.random.uniform(0.35, 0.8)))
        places = grid(n, len(y), (x1 - x0) / n, gap) + [(x0 + x1) / 2, y.mean()]
        places = places[c.random.random(len(places)) < 0.97]
        c.boxes(places, ((x1 - x0) / n * 0.96, gap * depth), 0.0, c.vary(panel, 5), 0.02, "plain")
    c.stroke([(track, -REACH), (track, REACH)], 0.05, c.vary("soil"))
    c.boxes((track + 0.02, c.random.uniform(-0.5, 0.5)), (0.09, 0.06), 0.0, c.vary("paint"), 0.04)
    surroundings(c, from_rectangle(max(edge[2:]), max(edge[:2])), 0.05)


def storage_tanks(c: Canvas) -> None:
    """Round tanks on a loose grid."""
    c.ground(pick(c, GROUNDS), pick(c, GROUNDS))
    radius = c.random.uniform(0.1, 0.34)
    pitch = radius * c.random.uniform(2.3, 3.0)
    places = turn(grid(6, 6, pitch, pitch * c.random.uniform(1, 1.2)), c.random.uniform(0, 3))
    places = places[c.random.random(36) < c.random.uniform(0.4, 0.9)]
    c.stroke(turn(curve(c, 0.1, pitch / 2), c.random.uniform(0, 3)), 0.05, c.vary("asphalt"))
    tone = pick(c, ("metal", "metal", "concrete", "dry", "asphalt"))
    same = c.random.random() < 0.5
    for x, y in places[c.inside(places, radius * 2)]:
        r = radius * (1 if same else c.random.uniform(0.6, 1.05))
        if c.random.random() < 0.4:  # a wall of earth around it
            c.disc(x, y, r * 1.2, c.vary("soil", 6))
        _tank(c, x, y, r, c.vary(tone, 8))
    trees = scatter(c, int(c.random.integers(0, 50)))
    free = np.linalg.norm(trees[:, None] - places[None], axis=2).min(1, initial=9) > radius * 1.3
    c.trees(trees[free], 0.05)


def _tank(c: Canvas, x: float, y: float, r: float, colour: Colour) -> None:
    c.trees([(x, y)], r, "soil", 0.5 + 0.5 * c.random.random())  # its shadow; the crown is painted over
    c.disc(x, y, r, tuple(int(v * 0.8) for v in colour))
    c.disc(x, y, r * 0.93, colour)
    if c.random.random() < 0.6:  # a floating roof, in the shade of its own wall
        roof, rim = (tuple(int(v * part) for v in colour) for part in (c.random.uniform(0.8, 0.95), 0.7))
        c.disc(x, y, r * 0.62, roof, rim, 0.012)
    angle = c.random.uniform(0, 6.3)
    c.stroke([(x, y), (x + r * np.cos(angle), y + r * np.sin(angle))], 0.014, tuple(int(v * 0.72) for v in colour))
