"""What every built-in scene is drawn with: camera, sun, season, paint, and the sensor at the end.

Nothing here knows a class of land use. Season, palette, light, scale, rotation, noise and blur are drawn from the
same distributions for every scene, so that they carry no hint of the class. Lengths are in scene units: at zoom 1
the picture shows the square -1..1; scenes paint out to REACH, so that no camera sees an edge.
"""

import io

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from geofm_lib.data import sampler

SUPER = 2  # pixels drawn for each pixel kept, a side: antialiasing
REACH = 2.0  # corner of the widest view: sqrt(2) / 0.75, and a little offset
SHADE = 0.42  # share of the light that a shadow takes

# Mean colours of materials in full sun; every picture varies them. Vegetation has one row for each season.
SEASONS = {
    "spring": {"grass": (110, 130, 78), "dry": (154, 154, 104), "tree": (64, 90, 54), "crop": (124, 146, 78)},
    "summer": {"grass": (98, 114, 70), "dry": (162, 150, 108), "tree": (50, 76, 48), "crop": (94, 116, 64)},
    "autumn": {"grass": (118, 116, 78), "dry": (162, 142, 106), "tree": (98, 84, 56), "crop": (150, 130, 88)},
    "dry": {"grass": (146, 134, 98), "dry": (174, 154, 120), "tree": (78, 84, 62), "crop": (164, 144, 106)},
}
MATERIALS = {
    "stubble": (176, 158, 108),
    "soil": (142, 118, 92),
    "sand": (204, 190, 160),
    "asphalt": (98, 98, 100),
    "concrete": (170, 168, 162),
    "paint": (230, 230, 224),
    "water": (60, 82, 90),
    "panel": (46, 52, 72),
    "metal": (204, 206, 206),
}
ROOFS = np.array(
    [(150, 92, 74), (176, 118, 92), (128, 124, 122), (92, 90, 94), (186, 180, 170), (214, 212, 208), (118, 100, 84)]
)
CARS = np.array(
    [(232, 232, 232), (200, 202, 206), (60, 62, 66), (120, 122, 126), (150, 44, 40), (52, 74, 120), (24, 24, 28)]
)
# Drawn once: normal numbers are the slowest thing to make for a small picture.
NOISE = sampler.generator(0, 0, 0, "scene").standard_normal(2**18, dtype=np.float32)
Colour = tuple[int, ...]  # red, green, blue in 0..255


class Canvas:
    """One picture being painted. `random` is the numpy generator of this picture, `colour` its palette.

    Two layers: the colours, and where the sun does not reach. A thing that stands up darkens the second layer beside
    it and clears it where its own top is, so that later things throw shadows on earlier ones.
    """

    def __init__(self, size: int, random: np.random.Generator):
        self.random, self.size, self.pixels = random, size, size * SUPER
        zoom, turn = np.exp(random.uniform(np.log(0.75), np.log(1.4))), random.uniform(0, 2 * np.pi)
        self.scale = zoom * self.pixels / 2
        mirror = random.choice([-1.0, 1.0])
        turned = [[np.cos(turn), np.sin(turn)], [-np.sin(turn) * mirror, np.cos(turn) * mirror]]
        self._matrix = np.array(turned) * self.scale
        self._centre = self.pixels * (0.5 + random.uniform(-0.08, 0.08, 2))
        away = random.uniform(0, 2 * np.pi)
        self._away = np.array([np.cos(away), np.sin(away)])  # in pixels, away from the sun
        self._throw = random.uniform(0.5, 1.7) * self.scale  # length of a shadow per unit of height, in pixels
        season = SEASONS[list(SEASONS)[random.integers(len(SEASONS))]] | MATERIALS
        means = np.array(list(season.values()))
        shifts = random.normal(0, 5, 3) + random.normal(0, 9, (len(means), 1)) + random.normal(0, 3, means.shape)
        colours = np.clip(means + shifts, 8, 247).astype(int).tolist()
        self.colour = dict(zip(season, map(tuple, colours), strict=True))
        self.image = Image.new("RGB", (self.pixels, self.pixels))
        self._shade = Image.new("L", self.image.size, 0)
        self._draw, self._dark = ImageDraw.Draw(self.image), ImageDraw.Draw(self._shade)

    def _to_pixels(self, points: ArrayLike) -> np.ndarray:
        return np.asarray(points) @ self._matrix + self._centre

    def inside(self, points: ArrayLike, margin: float = 0.15) -> np.ndarray:
        """Which points the camera sees, give or take `margin`: the rest need not be painted."""
        pixels, edge = self._to_pixels(points), margin * self.scale
        return ((pixels > -edge) & (pixels < self.pixels + edge)).all(axis=-1)

    def vary(self, colour: str | Colour, amount: float = 10.0) -> Colour:
        """A colour near a named one (or near an RGB triple): brightness mostly, hue a little."""
        mean = self.colour[colour] if isinstance(colour, str) else colour
        bright, *hue = self.random.standard_normal(4).tolist()
        return tuple(int(min(max(c + amount * (bright + h / 4), 0), 255)) for c, h in zip(mean, hue, strict=True))

    def ground(self, first: str, second: str) -> None:
        """Fill everything with one material and soft patches of a second."""
        cells, low = int(self.random.integers(3, 9)), self.random.uniform(0.2, 0.6)
        patches = np.clip((self.random.random((cells, cells)) - low) * 3, 0, 1) * 255
        mask = Image.fromarray(patches.astype(np.uint8)).resize((self.size, self.size), Image.Resampling.BICUBIC)
        small = Image.new("RGB", mask.size, self.vary(first))
        small.paste(self.vary(second), mask=mask)
        self.image.paste(small.resize(self.image.size, Image.Resampling.NEAREST))

    def polygon(self, points: ArrayLike, colour: Colour) -> None:
        """A filled outline along `points` [n, 2]."""
        self._draw.polygon(self._to_pixels(points).ravel().tolist(), fill=colour)

    def stroke(self, points: ArrayLike, width: float, colour: Colour) -> None:
        """A line along `points` [n, 2], `width` in scene units, with round joints."""
        pixels = self._to_pixels(points).ravel().tolist()
        self._draw.line(pixels, fill=colour, width=max(1, round(width * self.scale)), joint="curve")

    def strokes(self, segments: ArrayLike, width: float, colour: Colour) -> None:
        """Many straight lines of one colour: [n, 2 ends, 2]."""
        thick = max(1, round(width * self.scale))
        for line in self._to_pixels(segments).reshape(-1, 4).tolist():
            self._draw.line(line, fill=colour, width=thick)

    def dashes(
        self, start: ArrayLike, end: ArrayLike, n: int, width: float, colour: Colour, share: float = 0.5
    ) -> None:
        """`n` dashes from start to end."""
        step = np.subtract(end, start) / n
        k = np.arange(n)[:, None, None] + np.array([[0.0], [share]])
        self.strokes(np.asarray(start, float) + step * k, width, colour)

    def disc(
        self, x: float, y: float, radius: float, colour: Colour, outline: Colour | None = None, line: float = 0.0
    ) -> None:
        """A filled circle; `line` is the width of its outline."""
        (cx, cy), r = self._to_pixels((x, y)).tolist(), float(radius * self.scale)
        width = max(1, round(line * self.scale)) if outline else 0
        self._draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=colour, outline=outline, width=width)

    @staticmethod
    def circle(x: float, y: float, radius: float) -> np.ndarray:
        """Its outline [24, 2]."""
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)

    def blob(self, x: float, y: float, r: float, colour: Colour, stretch: float = 1.0, rough: float = 0.25) -> None:
        """A smooth irregular patch (pond, bunker, clearing)."""
        angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        k = np.array([[2], [3], [4]])
        waves = self.random.uniform(0, rough, (3, 1)) / k * np.cos(k * angle + self.random.uniform(0, 6.3, (3, 1)))
        out, turn = r * (1 + waves.sum(0)), self.random.uniform(0, np.pi)
        px, py = out * np.cos(angle) * stretch, out * np.sin(angle)
        c, s = np.cos(turn), np.sin(turn)
        self.polygon(np.stack([x + px * c - py * s, y + px * s + py * c], 1), colour)

    def boxes(
        self, at: ArrayLike, sizes: ArrayLike, angles: ArrayLike, colours: ArrayLike, height: float, roof: str = "flat"
    ) -> None:
        """Many rectangles at once: at [n, 2], sizes [n, 2] or [2], angles [n] or a number, colours [n, 3] or [3].

        roof: "flat" (a lit edge), "gable" (two sides, one in the shade) or "plain" (cars, boats, panels).
        """
        middles = np.asarray(at, float).reshape(-1, 2)
        half = np.asarray(sizes, float).reshape(-1, 2) / 2
        angles = np.asarray(angles, float).reshape(-1, 1)
        along = np.hstack([np.cos(angles), np.sin(angles)])
        ax, ay = along * half[:, :1], along[:, ::-1] * [-1, 1] * half[:, 1:]
        ends = np.stack(np.broadcast_arrays(-ax - ay, ax - ay, ax + ay, ay - ax), 1)
        outlines = middles[:, None] + ends
        corners = self._to_pixels(outlines)
        seen = ((corners.max(1) > 0) & (corners.min(1) < self.pixels)).all(1)
        paints = map(tuple, np.broadcast_to(np.asarray(colours, int), (len(corners), 3))[seen].tolist())
        corners = corners[seen]
        if height > 0:
            far = corners + self._away * self._throw * height
            # The outline of a box and its shifted copy: six corners, counted from the one farthest from the sun.
            first = (corners @ self._away).argmax(1)[:, None] + np.arange(4)
            turned, far = (np.take_along_axis(p, first[..., None] % 4, axis=1) for p in (corners, far))
            outline = np.concatenate([far[:, [3, 0, 1]], turned[:, 1:4]], 1)
            for shape in outline.reshape(-1, 12).tolist():
                self._dark.polygon(shape, fill=255)
        for box, colour in zip(corners.reshape(-1, 8).tolist(), paints, strict=True):
            self._draw.polygon(box, fill=colour)
            if height > 0:
                self._dark.polygon(box, fill=0)
            if roof == "gable":
                px, py, qx, qy, rx, ry, sx, sy = box
                ridge = [(qx + rx) / 2, (qy + ry) / 2, (px + sx) / 2, (py + sy) / 2]
                far_side = (sx - px) * self._away[0] + (sy - py) * self._away[1] > 0
                side = [sx, sy, rx, ry] if far_side else [px, py, qx, qy]
                self._draw.polygon(side + ridge, fill=tuple(int(v * 0.74) for v in colour))
            elif roof == "flat":
                self._draw.line(box + box[:2], fill=tuple(int(min(255, v * 1.15 + 8)) for v in colour))
        if roof != "plain":
            self.mark("building", outlines)

    def mark(self, kind: str, outlines: ArrayLike) -> None:
        """Say that something which can be counted was painted: outlines [n, points, 2]. Paints nothing (`things`)."""

    def trees(self, points: ArrayLike, radii: ArrayLike, colour: str = "tree", height: float = 1.0) -> None:
        """Round crowns: shadow, dark rim, lit side. points [n, 2], radii [n] or a number (scene units)."""
        points = np.asarray(points, float).reshape(-1, 2)
        seen = self.inside(points)
        n = int(seen.sum())
        centres = self._to_pixels(points[seen])
        r = np.broadcast_to(radii, len(points))[seen][:, None] * self.scale
        shadow, lit = centres + self._away * r * height * self._throw / self.scale, centres - self._away * r * 0.28
        tone = self.random.normal(1, 0.11, (n, 1))
        hue = np.asarray(self.colour[colour]) + self.random.normal(0, 4, (n, 3))
        colours = np.clip(np.hstack([hue * tone * 0.78, hue * tone * 1.16 + 5]), 0, 255).astype(int).tolist()
        for box in np.hstack([shadow - r, shadow + r]).tolist():
            self._dark.ellipse(box, fill=255)
        # A crown and its lit side are painted together, so that one tree covers the next.
        shapes = np.hstack([centres - r, centres + r, lit - r * 0.62, lit + r * 0.62]).tolist()
        for box, tints in zip(shapes, colours, strict=True):
            self._dark.ellipse(box[:4], fill=0)
            self._draw.ellipse(box[:4], fill=tuple(tints[:3]))
            self._draw.ellipse(box[4:], fill=tuple(tints[3:]))

    def _noise(self, shape: tuple[int, ...], spread: float) -> np.ndarray:
        """Normal noise, float32: a random stretch of one long table, repeated for a large picture."""
        n, start = int(np.prod(shape)), int(self.random.integers(len(NOISE) // 2))
        return np.resize(NOISE[start : start + n], shape) * np.float32(spread)

    def jpeg(self, quality: int = 95) -> bytes:
        """Develop the picture: shadows, texture, sharpness, light, haze, colour cast, noise; then encode it."""
        random, size = self.random, self.size
        image, shade = self.image.reduce(SUPER), np.asarray(self._shade.reduce(SUPER), dtype=np.float32)
        light = shade * (-SHADE / 255)
        for cells in (4, size // 5):
            grid = random.standard_normal((cells, cells), dtype=np.float32) * np.float32(random.uniform(0.01, 0.09))
            light += np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BILINEAR))
        light += 1 + self._noise((size, size), random.uniform(0.005, 0.09))
        x = np.asarray(image, dtype=np.float32).reshape(-1, 3) * light.reshape(-1, 1)
        # Saturation, contrast, exposure, colour cast and haze are one linear map of a pixel's colour.
        colour, contrast = random.uniform(0.4, 1.05), random.uniform(0.8, 1.25)
        gain = random.uniform(0.68, 1.25) * np.exp(random.normal(0, 0.03, 3))
        haze = random.uniform(0, 0.3) ** 2 * 3
        matrix = (np.eye(3) * colour + (1 - colour) / 3) * contrast * gain * (1 - haze)
        x = x @ matrix.astype(np.float32)
        x += np.float32(x.mean() * (1 / contrast - 1) + haze * 200 + 0.5)
        if (sharpness := random.uniform(0.55, 1.4)) < 1:  # a coarser sensor
            coarse = Image.fromarray(np.clip(x, 0, 255).astype(np.uint8).reshape(size, size, 3))
            coarse = coarse.resize((int(size * sharpness),) * 2, Image.Resampling.BILINEAR)
            x = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32).reshape(-1, 3)
        x += self._noise(x.shape, random.uniform(0.5, 6))
        file = io.BytesIO()
        pixels = np.clip(x, 0, 255).astype(np.uint8).reshape(size, size, 3)
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        return file.getvalue()
