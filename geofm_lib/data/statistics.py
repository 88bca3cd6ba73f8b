"""Mean and standard deviation of each band over all pixels of some images."""

import itertools
from typing import Any

import numpy as np

from geofm_lib.data.pack import Block

DIGITS = {8: 6, 16: 9}  # written of mean and std, by the bits of a value


class Statistics:
    """Sums over the images added. Everything is in 0..1 units of the range of a value."""

    def __init__(self) -> None:
        self.images, self.pixels, self.bits = 0, 0, 8
        self.sums: np.ndarray | float = 0.0
        self.squares: np.ndarray | float = 0.0

    def add(self, block: Block, chosen: list[bool]) -> None:
        """Take in the chosen rows of some."""
        if not any(chosen):
            return
        names = ("width", "height", "sums", "squares")
        width, height, sums, squares = (_numbers(list(itertools.compress(block[name], chosen))) for name in names)
        self.images, self.bits = self.images + len(width), int(block["bits"][chosen.index(True)])
        self.pixels += int((width * height).sum())
        self.sums += sums.sum(0)
        self.squares += squares.sum(0)

    def result(self) -> dict[str, Any]:
        """channels, images, and the lists mean and std, rounded."""
        mean, squares = np.asarray(self.sums / self.pixels), self.squares / self.pixels
        # One level at least: images of one colour must not be divided by zero.
        std = np.sqrt(np.maximum(squares - mean**2, 0)).clip(min=1 / (2**self.bits - 1))
        rounded = [[round(float(value), DIGITS[self.bits]) for value in each] for each in (mean, std)]
        return {"channels": len(mean), "images": self.images, "mean": rounded[0], "std": rounded[1]}


def _numbers(rows: list[str]) -> np.ndarray:
    """Rows of numbers with spaces between them: [rows, numbers]."""
    return np.array(list(map(float, " ".join(rows).split()))).reshape(len(rows), -1)
