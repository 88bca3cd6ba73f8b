"""The sixteen classes: a function each, which paints one picture on a Canvas and is called what it paints."""

import numpy as np

from geofm_lib.scenes.canvas import CARS, REACH, ROOFS, Canvas, Colour
from geofm_lib.scenes.parts import (
    GROUNDS,
    cars,
    clumps,
    curve,
    farmland,
    from_arms,
    from_curve,
    from_rectangle,
    grid,
    houses,
    open_ground,
    pick,
    plots,
    road,
    roof_colours,
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
    if c.random.random() < 0.5:  # a bridge
        x = c.random.uniform(-0.5, 0.5)
        road(c, [(x, -REACH), (x + c.random.uniform(-0.4, 0.4), REACH)], c.random.uniform(0.08, 0.13))
    surroundings(c, from_curve(line), width * 0.75)
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
    pitch, stretch = c.random.uniform(0.13, 0.26), c.random.uniform(1.0, 1.5)
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
    trees = trees[from_curve(line)(trees) > 0.08]
    trees = trees[np.linalg.norm(trees[:, None] - places[None], axis=2).min(1) > 0.2]
    c.trees(trees, c.random.uniform(0.04, 0.09, len(trees)))


def industrial(c: Canvas) -> None:
    """Large flat roofs with skylights, yards with lorries."""
    c.ground(pick(c, ("concrete", "asphalt", "soil", "grass")), pick(c, ("concrete", "asphalt", "dry")))
    corners = np.array(plots(c, c.random.uniform(0.4, 0.62), 1.7))
    middles, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    yard = c.random.random(len(corners)) < 0.25
    shapes = sides * c.random.uniform(0.62, 0.85, sides.shape)
    roofs = roof_colours(c, len(corners), 5, 250)
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
    trees = scatter(c, int(c.random.integers(5, 90)))
    c.trees(trees[from_rectangle(w, h)(trees) > 0.05], 0.06)


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
    c.mark("storage tank", [c.circle(x, y, r)])


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
    outline = np.array([(0.5, 0.0), *wing[1:3], tail[2], tail[4], *wing[4:]])
    c.mark("plane", [turn(outline * size, angle) + [x, y]])


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
    c.mark("roundabout", [c.circle(0, 0, ring + width * 0.75)])
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


# Append only: the place of a class is part of its images' seed.
_PAINTERS = (
    (fields, forest, river, beach),
    (dense_residential, sparse_residential, industrial, parking_lot),
    (runway, harbour, roundabout, intersection),
    (solar_farm, golf_course, storage_tanks, orchard),
)
CLASSES = {paint.__name__: paint for row in _PAINTERS for paint in row}
