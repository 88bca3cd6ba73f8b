"""How each class of land use is laid out: one function a class, painting on a Canvas.

Most scenes hold things of other classes too (houses, trees, tracks, ponds), and their grounds come from one list, so
that neither colours nor single things give the class away. Frozen: see scenes.GENERATOR_VERSION.
"""

from collections.abc import Callable

import numpy as np

from geofm_lib.scenes.canvas import CARS, REACH, ROOFS, Canvas

GROUNDS = ("grass", "dry", "soil", "crop", "stubble", "concrete")


# what many scenes share ---------------------------------------------------------------------------------------


def _pick(c: Canvas, options):
    return options[int(c.random.integers(len(options)))]


def _scatter(c: Canvas, n: int, reach: float = REACH) -> np.ndarray:
    """n random places [n, 2]."""
    return c.random.uniform(-reach, reach, (n, 2))


def _clumps(c: Canvas, n: int, spread: float) -> np.ndarray:
    """n places in a few clumps [n, 2]."""
    centres = _scatter(c, max(1, n // 12), 1.6)
    return centres[c.random.integers(len(centres), size=n)] + c.random.normal(0, spread, (n, 2))


def _clear(points: np.ndarray, distance: Callable, least: float) -> np.ndarray:
    """The points at least `least` away, where distance(points) is [n]."""
    return points[distance(points) > least]


def _grid(nx: int, ny: int, dx: float, dy: float) -> np.ndarray:
    """Centres of a centred grid [nx*ny, 2]."""
    x, y = np.meshgrid((np.arange(nx) - (nx - 1) / 2) * dx, (np.arange(ny) - (ny - 1) / 2) * dy, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], 1)


def _turn(points, angle: float) -> np.ndarray:
    s, k = np.sin(angle), np.cos(angle)
    return np.asarray(points) @ np.array([[k, s], [-s, k]])


def _curve(c: Canvas, bend: float, y: float = 0.0) -> np.ndarray:
    """A winding line from left to right through (0, y): [n, 2]."""
    x = np.linspace(-REACH, REACH, 28)
    wave = sum(
        c.random.uniform(-bend, bend) / k * np.sin(k * x * c.random.uniform(0.8, 1.5) + c.random.uniform(0, 6.3))
        for k in (1, 2, 3)
    )
    return np.stack([x, y + wave], 1)


def _from_curve(line: np.ndarray) -> Callable:
    return lambda points: np.abs(points[:, 1] - np.interp(points[:, 0], line[:, 0], line[:, 1]))


def _from_rectangle(w: float, h: float) -> Callable:
    return lambda points: np.max(np.abs(points) - [w, h], axis=1)


def _road(c: Canvas, line, width: float, marks: bool = True, colour: str = "asphalt") -> None:
    c.stroke(line, width * 1.25, c.vary("dry", 12))
    c.stroke(line, width, c.vary(colour, 8))
    if marks and width > 0.08:
        line = np.asarray(line, float)
        if len(line) == 2:
            c.dashes(*line, int(np.hypot(*(line[1] - line[0])) / 0.13), 0.008, c.colour["paint"])
        else:
            c.strokes(np.stack([line[:-1], (line[:-1] + line[1:]) / 2], 1), 0.008, c.colour["paint"])


def _cars(c: Canvas, points, angles) -> None:
    points = np.asarray(points, float).reshape(-1, 2)
    n = len(points)
    shape = np.array([0.075, 0.034]) * c.random.uniform(0.9, 1.15, (n, 1))
    c.boxes(points, shape, angles, CARS[c.random.integers(len(CARS), size=n)], 0.012, "plain")


def _houses(c: Canvas, points, angles, size=(0.13, 0.24)) -> None:
    points = np.asarray(points, float).reshape(-1, 2)
    n = len(points)
    shape = c.random.uniform(*size, (n, 2)) * [1.15, 0.85]
    colours = np.clip(ROOFS[c.random.integers(len(ROOFS), size=n)] + c.random.normal(0, 9, (n, 1)), 10, 245)
    c.boxes(
        points, shape, angles, colours, c.random.uniform(0.03, 0.07), "gable" if c.random.random() < 0.8 else "flat"
    )


def _plots(c: Canvas, least: float, reach: float = REACH) -> list[tuple[float, float, float, float]]:
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


def _farmland(c: Canvas, least: float, striped: float = 0.6) -> None:
    """Plots of one angle: crops, ploughed soil, rows, hedges."""
    angle = c.random.uniform(0, np.pi)
    hedge = c.vary("tree", 14) if c.random.random() < 0.4 else c.vary("dry", 8)
    hedge_width = c.random.uniform(0.01, 0.035)
    for x0, y0, x1, y1 in _plots(c, least):
        corners = _turn([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], angle)
        if not c.inside(corners.mean(0, keepdims=True), 0.75 * max(x1 - x0, y1 - y0)).any():
            continue
        base = c.vary(_pick(c, GROUNDS[:5]), 14)
        c.polygon(corners, base)
        if c.random.random() < striped:
            along = c.random.random() < 0.5
            gap = c.random.uniform(0.045, 0.11)
            row = tuple(int(v * c.random.uniform(0.82, 0.93)) for v in base)
            t = np.arange(gap / 2, (y1 - y0) if along else (x1 - x0), gap)
            low, high = np.full(len(t), x0 if along else y0), np.full(len(t), x1 if along else y1)
            ends = [[low, y0 + t], [high, y0 + t]] if along else [[x0 + t, low], [x0 + t, high]]
            c.strokes(_turn(np.array(ends).transpose(2, 0, 1), angle), gap * 0.4, row)
        c.stroke(corners[[0, 1, 2, 3, 0]], hedge_width, hedge)


def _surroundings(c: Canvas, distance: Callable, least: float) -> None:
    """Trees, houses or both around something that must stay free: distance(points) > least."""
    kind = c.random.random()
    if kind < 0.65:
        places = _clear(_grid(9, 9, 0.42, 0.42) + c.random.normal(0, 0.05, (81, 2)), distance, least + 0.14)
        keep = places[c.random.random(len(places)) < c.random.uniform(0.15, 0.8)]
        _houses(c, keep, c.random.uniform(0, np.pi) + np.pi / 2 * c.random.integers(2, size=len(keep)))
    n = int(c.random.integers(10, 110))
    places = _clumps(c, n, c.random.uniform(0.1, 0.5)) if c.random.random() < 0.5 else _scatter(c, n)
    places = _clear(places, distance, least + 0.05)
    c.trees(places, c.random.uniform(0.035, 0.085, len(places)))


def _open_ground(c: Canvas) -> None:
    """Any ground: one material with patches of another, or farmland."""
    if c.random.random() < 0.3:
        _farmland(c, c.random.uniform(0.35, 0.8), 0.3)
    else:
        c.ground(_pick(c, GROUNDS), _pick(c, GROUNDS[:5]))


# the classes ----------------------------------------------------------------------------------------------------


def fields(c: Canvas) -> None:
    """Plots of crops and ploughed soil, hedges, sometimes a track and a farm."""
    _farmland(c, c.random.uniform(0.22, 0.6))
    if c.random.random() < 0.5:
        track = _turn(_curve(c, 0.1, c.random.uniform(-0.5, 0.5)), c.random.uniform(0, 3))
        _road(c, track, 0.06, False, _pick(c, ("soil", "asphalt")))
    if c.random.random() < 0.5:
        spot = _scatter(c, 1, 0.8)
        _houses(c, spot + c.random.normal(0, 0.14, (3, 2)), c.random.uniform(0, 3))
        c.trees(spot + c.random.normal(0, 0.22, (9, 2)), 0.06)
    c.trees(_scatter(c, int(c.random.integers(0, 16))), 0.05)


def forest(c: Canvas) -> None:
    """Crowns without gaps but for a few clearings, sometimes a track or a stream."""
    c.ground(_pick(c, ("tree", "grass", "dry")), _pick(c, GROUNDS[:3]))
    track = _turn(_curve(c, 0.4, c.random.uniform(-0.6, 0.6)), c.random.uniform(0, 6.3))
    if c.random.random() < 0.45:
        _road(c, track, c.random.uniform(0.03, 0.1), False, _pick(c, ("soil", "asphalt", "water")))
    size = c.random.uniform(0.06, 0.115)
    steps = int(3.4 / (size * 1.45))
    places = _grid(steps, steps, size * 1.45, size * 1.45) + c.random.normal(0, size * 0.5, (steps**2, 2))
    first, second, phase = c.random.normal(0, 1.6, 2), c.random.normal(0, 1.6, 2), 3 * c.random.random()
    wave = np.sin(places @ first + phase) + np.sin(places @ second)
    places = places[wave > c.random.uniform(-2.0, -0.7)]  # clearings
    c.trees(c.random.permutation(places), c.random.uniform(0.6, 1.15, len(places)) * size, height=1.0)


def river(c: Canvas) -> None:
    """Winding water with banks, sometimes a bridge."""
    _open_ground(c)
    width, line = c.random.uniform(0.14, 0.5), _curve(c, 0.5)
    c.stroke(line, width * c.random.uniform(1.1, 1.45), c.vary(_pick(c, ("sand", "grass", "soil")), 12))
    c.stroke(line, width, c.vary("water", 16))
    far = _from_curve(line)
    if c.random.random() < 0.5:
        x = c.random.uniform(-0.5, 0.5)
        bridge = [(x, -REACH), (x + c.random.uniform(-0.4, 0.4), REACH)]
        _road(c, bridge, c.random.uniform(0.08, 0.13))
    _surroundings(c, far, width * 0.75)
    bank = line[c.random.integers(len(line), size=30)] + [0, 1] * (c.random.choice([-1, 1], (30, 1)) * width * 0.75)
    c.trees(bank + c.random.normal(0, 0.05, (30, 2)), 0.06)


def beach(c: Canvas) -> None:
    """Sea, surf, a strip of sand, and land behind it."""
    _open_ground(c)
    line = _curve(c, 0.3, c.random.uniform(-0.25, 0.25))
    below = [(REACH, REACH * 1.3), (-REACH, REACH * 1.3)]
    sand = c.random.uniform(0.18, 0.5)
    c.polygon([*(line - [0, sand]), *below], c.vary("sand", 14))
    c.polygon([*line, *below], c.vary("water", 20))
    for k in range(int(c.random.integers(1, 4))):  # surf
        crest = line[:: 1 + k] + [0, 0.03 + 0.1 * k + c.random.uniform(0, 0.04)]
        width = c.random.uniform(0.01, 0.035)
        c.stroke(crest + c.random.normal(0, 0.012, crest.shape), width, c.vary("paint", 14))
    _surroundings(c, lambda p: np.interp(p[:, 0], line[:, 0], line[:, 1]) - sand - p[:, 1], 0.02)
    if c.random.random() < 0.5:
        spots = line[c.random.integers(len(line), size=14)]
        spots[:, 1] -= c.random.uniform(0.05, sand, 14)
        for x, y in spots:
            c.disc(x, y, 0.018, tuple(map(int, CARS[c.random.integers(len(CARS))])))


def dense_residential(c: Canvas) -> None:
    """Rows of houses, back to back along parallel streets."""
    c.ground(_pick(c, ("grass", "dry", "concrete", "soil")), _pick(c, ("grass", "dry", "concrete")))
    pitch, rows = c.random.uniform(0.17, 0.24), c.random.uniform(0.52, 0.68)
    y = np.arange(-3, 4) * rows
    for street in y:
        _road(c, [(-REACH, street), (REACH, street)], 0.1, False)
    places = _grid(int(3.6 / pitch), 14, pitch, rows / 2) + c.random.normal(0, 0.012, (int(3.6 / pitch) * 14, 2))
    places[:, 1] += np.where(np.arange(len(places)) % 2, 0.02, -0.02)  # back yards
    places = places[c.random.random(len(places)) < 0.94]
    _houses(c, places, c.random.choice([0, np.pi / 2], len(places)), (pitch * 0.62, pitch * 0.85))
    _cars(c, np.stack([c.random.uniform(-1.6, 1.6, 24), c.random.choice(y, 24) + 0.03], 1), 0.0)
    if c.random.random() < 0.7:
        x = c.random.uniform(-0.5, 0.5)
        _road(c, [(x, -REACH), (x, REACH)], 0.12)
    c.trees(_scatter(c, int(c.random.integers(15, 80)), 1.6), 0.05)


def sparse_residential(c: Canvas) -> None:
    """A few houses with drives along one winding road, many trees."""
    c.ground(_pick(c, GROUNDS[:3]), _pick(c, GROUNDS[:3]))
    line = _curve(c, 0.35, c.random.uniform(-0.4, 0.4))
    _road(c, line, 0.09, False)
    spots = np.stack([np.arange(-1.6, 1.7, c.random.uniform(0.55, 0.8)) + c.random.uniform(-0.2, 0.2)], 1)
    side = c.random.choice([-1, 1], len(spots)) * c.random.uniform(0.28, 0.5, len(spots))
    y = np.interp(spots[:, 0], line[:, 0], line[:, 1])
    places = np.stack([spots[:, 0], y + side], 1)
    for (x, yy), base in zip(places, y, strict=True):
        c.stroke([(x + 0.06, base), (x + 0.06, yy)], 0.035, c.vary("concrete"))
        if c.random.random() < 0.3:
            c.blob(x - 0.2, yy, 0.05, c.vary((84, 150, 170)), rough=0.1)
    _houses(c, places, c.random.normal(0, 0.3, len(places)), (0.16, 0.27))
    n = int(c.random.integers(30, 160))
    trees = _scatter(c, n, 1.8) if c.random.random() < 0.5 else _clumps(c, n, 0.3)
    trees = _clear(trees, _from_curve(line), 0.08)
    trees = trees[np.linalg.norm(trees[:, None] - places[None], axis=2).min(1) > 0.2]
    c.trees(trees, c.random.uniform(0.04, 0.09, len(trees)))


def industrial(c: Canvas) -> None:
    """Large flat roofs with skylights, yards with lorries."""
    c.ground(_pick(c, ("concrete", "asphalt", "soil", "grass")), _pick(c, ("concrete", "asphalt", "dry")))
    plots = np.array(_plots(c, c.random.uniform(0.4, 0.62), 1.7))
    middles, sides = (plots[:, :2] + plots[:, 2:]) / 2, plots[:, 2:] - plots[:, :2]
    yard = c.random.random(len(plots)) < 0.25
    shapes = sides * c.random.uniform(0.62, 0.85, sides.shape)
    roofs = np.clip(
        ROOFS[c.random.integers(len(ROOFS), size=len(plots))] + c.random.normal(0, 9, (len(plots), 1)), 5, 250
    )
    c.boxes(middles[~yard], shapes[~yard], 0.0, roofs[~yard], c.random.uniform(0.06, 0.13))
    vents, lorries = [np.zeros((0, 4))], [np.zeros((0, 2))]
    for middle, shape, is_yard in zip(middles, shapes, yard, strict=True):
        if is_yard:
            lorries.append(middle + _grid(3, 4, *(shape * 0.25)))
        elif c.random.random() < 0.6:  # skylights or vents
            spots = _grid(*c.random.integers(2, 6, 2), *(shape / 6.5))
            size = np.broadcast_to(shape * c.random.uniform(0.03, 0.1, 2), spots.shape)
            vents.append(np.hstack([middle + spots, size]))
    vents, lorries = np.concatenate(vents), np.concatenate(lorries)
    c.boxes(vents[:, :2], vents[:, 2:], 0.0, c.vary("concrete", 14), 0.012, "plain")
    lorries = lorries[c.random.random(len(lorries)) < 0.6]
    c.boxes(lorries, (0.14, 0.05), _pick(c, (0, np.pi / 2)), c.random.choice(CARS, len(lorries)), 0.03, "plain")
    if c.random.random() < 0.6:
        x = c.random.uniform(-0.6, 0.6)
        _road(c, [(x, -REACH), (x, REACH)], 0.14)
    c.trees(_scatter(c, int(c.random.integers(0, 40))), 0.05)


def parking_lot(c: Canvas) -> None:
    """Rows of cars in marked bays."""
    c.ground(_pick(c, GROUNDS), _pick(c, GROUNDS))
    w, h = c.random.uniform(0.8, 1.7, 2)
    lot = np.array([(-w, -h), (w, -h), (w, h), (-w, h)])
    c.polygon(lot, c.vary(_pick(c, ("asphalt", "asphalt", "concrete")), 10))
    aisle, bay, full = c.random.uniform(0.25, 0.34), c.random.uniform(0.05, 0.062), c.random.uniform(0.25, 0.95)
    x, y = np.arange(-w + 0.08, w - 0.08, bay), np.arange(-h + 0.1, h - 0.05, aisle)
    lines = np.stack(np.meshgrid(x[::2] + bay / 2, y), -1).reshape(-1, 1, 2)
    c.strokes(lines + [[0, -0.05], [0, 0.05]], 0.007, c.colour["paint"])
    spots = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    spots = spots[c.random.random(len(spots)) < full]
    _cars(c, spots + c.random.normal(0, 0.004, spots.shape), np.pi / 2)
    if c.random.random() < 0.6:
        c.trees(_grid(8, 1, w / 4, 0) + [0, c.random.uniform(-h, h)], 0.05)
    if c.random.random() < 0.6:
        c.boxes((0, -h - 0.35), (w * 1.5, 0.55), 0.0, c.vary(tuple(ROOFS[c.random.integers(len(ROOFS))])), 0.1, "flat")
    trees = _clear(_scatter(c, int(c.random.integers(5, 90))), _from_rectangle(w, h), 0.05)
    c.trees(trees, 0.06)


def runway(c: Canvas) -> None:
    """A marked strip, often with a taxiway, sometimes with an aircraft."""
    _open_ground(c)
    width, y = c.random.uniform(0.2, 0.42), c.random.uniform(-0.25, 0.25)
    c.stroke([(-REACH, y), (REACH, y)], width, c.vary(_pick(c, ("asphalt", "concrete")), 12))
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
        grey, x = c.vary(_pick(c, ("asphalt", "concrete")), 10), c.random.uniform(-0.6, 0.6)
        c.stroke([(-REACH, y + off), (REACH, y + off)], 0.13, grey)
        c.stroke([(x, y), (x + c.random.uniform(-0.5, 0.5), y + off)], 0.12, grey)
    if c.random.random() < 0.5:
        _plane(c, c.random.uniform(-0.6, 0.6), y, _pick(c, (0.0, np.pi)), width * c.random.uniform(0.5, 0.9))
    _surroundings(c, lambda p: np.abs(p[:, 1] - y), c.random.uniform(0.85, 1.2))


def _plane(c: Canvas, x: float, y: float, angle: float, size: float) -> None:
    white = c.vary("paint", 8)
    c.boxes((x, y), (size, size * 0.12), angle, white, 0.05, "plain")
    wing = np.array([(0.12, 0.0), (-0.18, 0.5), (-0.28, 0.5), (-0.1, 0.0), (-0.28, -0.5), (-0.18, -0.5)])
    tail = np.array([(-0.4, 0.0), (-0.5, 0.18), (-0.55, 0.18), (-0.48, 0.0), (-0.55, -0.18), (-0.5, -0.18)])
    for part in (wing, tail):
        c.polygon(_turn(part * size, angle) + [x, y], white)


def harbour(c: Canvas) -> None:
    """Piers with boats along a quay."""
    c.ground("water", "water")
    quay = c.random.uniform(-1.0, -0.3)
    c.polygon([(-REACH, -REACH), (REACH, -REACH), (REACH, quay), (-REACH, quay)], c.vary(_pick(c, GROUNDS), 10))
    c.stroke([(-REACH, quay), (REACH, quay)], 0.07, c.vary("concrete"))
    reach, pitch, length = c.random.uniform(0.5, 1.4), c.random.uniform(0.44, 0.95), c.random.uniform(0.12, 0.22)
    full, gap = c.random.uniform(0.35, 1.0), c.random.uniform(0.06, 0.1)
    piers = np.arange(-1.8, 1.9, pitch) + c.random.uniform(0, pitch)
    piers = piers[c.random.random(len(piers)) < 0.85]
    c.strokes([[(x, quay), (x, quay + reach)] for x in piers], 0.03, c.vary("concrete"))
    berths = np.arange(quay + 0.1, quay + reach, gap)
    x, y = (grid.ravel() for grid in np.meshgrid([p + s * (0.02 + length / 2) for p in piers for s in (-1, 1)], berths))
    boats = np.stack([x, y], 1)[c.random.random(len(x)) < full]
    boats = np.concatenate([boats, _scatter(c, 3, 1.0) * [1, 0.3] + [0, quay + reach + 0.45]])
    _boats(c, boats, length)
    _surroundings(c, lambda p: quay - p[:, 1], 0.05)


def _boats(c: Canvas, places, length: float) -> None:
    n = len(places)
    hull = CARS[c.random.choice([0, 0, 0, 1, 3, 5], n)]
    c.boxes(places, np.array([length, 0.045]) * c.random.uniform(0.6, 1.0, (n, 1)), 0.0, hull, 0.02, "plain")
    c.boxes(places, (length * 0.3, 0.024), 0.0, c.vary((150, 130, 110), 25), 0.0, "plain")


def roundabout(c: Canvas) -> None:
    """A ring of road with three to five arms."""
    _open_ground(c)
    ring, width, arms = c.random.uniform(0.25, 0.5), c.random.uniform(0.11, 0.17), int(c.random.integers(3, 6))
    angles = np.linspace(0, 2 * np.pi, arms, endpoint=False) + c.random.normal(0, 0.13, arms)
    tips = np.stack([np.cos(angles), np.sin(angles)], 1)
    for tip in tips:
        _road(c, [tip * ring, tip * 2.6], width)
    c.disc(0, 0, ring + width * 0.75, c.vary("dry"))
    c.disc(0, 0, ring + width * 0.6, c.vary("asphalt", 6))
    c.disc(0, 0, ring - width * 0.45, c.vary("concrete"))
    c.disc(0, 0, ring - width * 0.55, c.vary(_pick(c, ("grass", "dry", "soil", "concrete"))))
    if c.random.random() < 0.7:
        c.trees(c.random.normal(0, ring * 0.28, (int(c.random.integers(1, 8)), 2)), c.random.uniform(0.05, 0.09))
    n = int(c.random.integers(0, 7))
    at = c.random.uniform(0, 6.3, n)
    _cars(c, np.stack([np.cos(at), np.sin(at)], 1) * (ring + 0.03), at + np.pi / 2)
    _surroundings(c, _from_arms(tips, ring + width), width)


def _from_arms(tips: np.ndarray, ring: float) -> Callable:
    """Distance of points [n, 2] from a junction's arms (rays along `tips`) and its middle disc."""

    def distance(points):
        along = points @ tips.T
        ray = np.where(along > 0, np.abs(points @ np.stack([-tips[:, 1], tips[:, 0]])), np.inf).min(1)
        return np.minimum(ray, np.linalg.norm(points, axis=1) - ring)

    return distance


def intersection(c: Canvas) -> None:
    """Three or four roads that meet, often with zebra crossings."""
    _open_ground(c)
    width, arms = c.random.uniform(0.13, 0.3), int(c.random.integers(3, 5))
    angles = np.arange(arms) * np.pi / 2 + c.random.normal(0, 0.12, arms)
    tips = np.stack([np.cos(angles), np.sin(angles)], 1)
    for tip in tips:
        _road(c, [tip * width * 0.7, tip * 2.6], width)
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
        _cars(c, spots, np.arctan2(tip[1], tip[0]))
    _surroundings(c, _from_arms(tips, width * 0.5), width * 0.75)


def solar_farm(c: Canvas) -> None:
    """Rows of panels on both sides of a track."""
    _open_ground(c)
    gap, depth = c.random.uniform(0.1, 0.19), c.random.uniform(0.5, 0.68)
    panel = c.vary("panel", 12)
    track = c.random.uniform(-0.5, 0.5)
    edge = c.random.uniform(0.6, 1.8, 4).tolist()  # below, above, left, right
    y = np.arange(-edge[0], edge[1], gap)
    for x0, x1 in ((-edge[2], track - 0.05), (track + 0.05, edge[3])):
        n = max(1, round((x1 - x0) / c.random.uniform(0.35, 0.8)))
        places = _grid(n, len(y), (x1 - x0) / n, gap) + [(x0 + x1) / 2, y.mean()]
        places = places[c.random.random(len(places)) < 0.97]
        c.boxes(places, ((x1 - x0) / n * 0.96, gap * depth), 0.0, c.vary(panel, 5), 0.02, "plain")
    c.stroke([(track, -REACH), (track, REACH)], 0.05, c.vary("soil"))
    c.boxes((track + 0.02, c.random.uniform(-0.5, 0.5)), (0.09, 0.06), 0.0, c.vary("paint"), 0.04)
    _surroundings(c, _from_rectangle(max(edge[2:]), max(edge[:2])), 0.05)


def golf_course(c: Canvas) -> None:
    """Mown fairways, bunkers, clumps of trees, sometimes a pond and a path."""
    c.ground(_pick(c, ("grass", "dry", "tree")), _pick(c, ("grass", "dry")))
    mown = tuple(int(min(255, v * c.random.uniform(1.08, 1.25))) for v in c.colour["grass"])
    for _ in range(int(c.random.integers(2, 4))):
        line = _turn(_curve(c, 0.35, c.random.uniform(-0.9, 0.9)), c.random.uniform(0, 3))
        c.stroke(line[4:-4], c.random.uniform(0.22, 0.4), c.vary(mown, 5))
        x, y = line[int(c.random.integers(9, 19))]
        c.blob(x, y, c.random.uniform(0.1, 0.17), c.vary(tuple(int(min(255, v * 1.12)) for v in mown), 4), 1.3)
    for x, y in _scatter(c, int(c.random.integers(3, 8)), 1.0):
        c.blob(x, y, c.random.uniform(0.04, 0.1), c.vary("sand", 10), c.random.uniform(1, 1.8), 0.5)
    if c.random.random() < 0.5:
        c.blob(*_scatter(c, 1, 0.8)[0], c.random.uniform(0.12, 0.3), c.vary("water", 14), 1.4)
    if c.random.random() < 0.7:
        c.stroke(_turn(_curve(c, 0.5), c.random.uniform(0, 3)), 0.025, c.vary("concrete"))
    c.trees(_clumps(c, int(c.random.integers(30, 130)), c.random.uniform(0.1, 0.3)), c.random.uniform(0.04, 0.075))


def storage_tanks(c: Canvas) -> None:
    """Round tanks on a loose grid."""
    c.ground(_pick(c, GROUNDS), _pick(c, GROUNDS))
    radius = c.random.uniform(0.1, 0.34)
    pitch = radius * c.random.uniform(2.3, 3.0)
    places = _turn(_grid(6, 6, pitch, pitch * c.random.uniform(1, 1.2)), c.random.uniform(0, 3))
    places = places[c.random.random(36) < c.random.uniform(0.4, 0.9)]
    c.stroke(_turn(_curve(c, 0.1, pitch / 2), c.random.uniform(0, 3)), 0.05, c.vary("asphalt"))
    tone = _pick(c, ("metal", "metal", "concrete", "dry", "asphalt"))
    same = c.random.random() < 0.5
    for x, y in places[c.inside(places, radius * 2)]:
        r = radius * (1 if same else c.random.uniform(0.6, 1.05))
        if c.random.random() < 0.4:  # a wall of earth around it
            c.disc(x, y, r * 1.2, c.vary("soil", 6))
        _tank(c, x, y, r, c.vary(tone, 8))
    trees = _scatter(c, int(c.random.integers(0, 50)))
    free = np.linalg.norm(trees[:, None] - places[None], axis=2).min(1, initial=9) > radius * 1.3
    c.trees(trees[free], 0.05)


def _tank(c: Canvas, x: float, y: float, r: float, colour) -> None:
    c.trees([(x, y)], r, "soil", 0.5 + 0.5 * c.random.random())  # its shadow; the crown is painted over
    c.disc(x, y, r, tuple(int(v * 0.8) for v in colour))
    c.disc(x, y, r * 0.93, colour)
    if c.random.random() < 0.6:  # a floating roof, in the shade of its own wall
        roof, rim = (tuple(int(v * part) for v in colour) for part in (c.random.uniform(0.8, 0.95), 0.7))
        c.disc(x, y, r * 0.62, roof, rim, 0.012)
    turn = c.random.uniform(0, 6.3)
    c.stroke([(x, y), (x + r * np.cos(turn), y + r * np.sin(turn))], 0.014, tuple(int(v * 0.72) for v in colour))


def orchard(c: Canvas) -> None:
    """Small trees on a regular grid."""
    c.ground(_pick(c, GROUNDS[:5]), _pick(c, GROUNDS[:5]))
    pitch = c.random.uniform(0.13, 0.26)
    stretch = c.random.uniform(1.0, 1.5)
    n = int(3.6 / pitch)
    places = _grid(n, int(n / stretch), pitch, pitch * stretch)
    places = places + c.random.normal(0, pitch * 0.03, places.shape)
    places = places[c.random.random(len(places)) < c.random.uniform(0.88, 1.0)]
    y = c.random.uniform(-0.6, 0.6)
    if c.random.random() < 0.6:
        c.stroke([(-REACH, y), (REACH, y)], 0.07, c.vary("soil"))
        places = places[np.abs(places[:, 1] - y) > 0.06]
    if c.random.random() < 0.4:
        spot = _scatter(c, 1, 0.9)
        places = places[np.linalg.norm(places - spot, axis=1) > 0.3]
        _houses(c, spot, 0.0)
    c.trees(places, pitch * c.random.uniform(0.26, 0.44) * c.random.uniform(0.85, 1.1, len(places)))
