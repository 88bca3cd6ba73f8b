"""Fits of a loss or an error to parameters, images and FLOPs, with what resampling the runs leaves uncertain.

The forms are those of Hoffmann et al. (arXiv 2203.15556, section 3.3): a floor, and a power of each cause. The loss on
logarithms is Huber's, so that one odd run does not decide; every fit has many starts.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

LEAST_RUNS, LEAST_SIZES, LEAST_HORIZONS = 6, 3, 2
HUBER = 1e-3  # of a residual on natural logarithms, as published
STARTS = [0.1, 0.3, 0.7]  # exponents; floors are shares of the least value
FLOORS = [0.0, 0.5, 0.9]
BOOTSTRAPS = 200
EXPONENTS = (-2.0, 4.0)  # as far as exponents are searched
BEYOND = 100.0  # times the compute of the largest run, as far as a fit may be asked
CAUSES = {"size": ("parameters_m", "images_seen"), "compute": ("flops",)}  # what a value is a floor and powers of


@dataclass(frozen=True)
class Fit:
    """value = floor + sum of (cause / unit) ** -exponent * factor. draws: the same numbers of each bootstrap.

    numbers: floor, then a factor and an exponent for each cause.
    """

    causes: tuple[str, ...]
    units: np.ndarray
    numbers: np.ndarray
    draws: np.ndarray
    runs: int

    @property
    def floor(self) -> float:
        """What no size and no number of images goes below."""
        return float(self.numbers[0])

    @property
    def floors(self) -> tuple[float, float]:
        """95 % of the bootstraps' floors."""
        low, high = np.percentile(self.draws[:, 0], (2.5, 97.5))
        return float(low), float(high)

    @cached_property
    def exponents(self) -> dict[str, tuple[float, float, float]]:
        """{cause: (exponent, low, high)}, 95 % of the bootstraps."""
        spans = np.percentile(self.draws, (2.5, 97.5), axis=0)
        return {
            cause: tuple(float(each) for each in (self.numbers[2 + 2 * k], *spans[:, 2 + 2 * k]))  # type: ignore[misc]
            for k, cause in enumerate(self.causes)
        }

    def at(self, frame: pd.DataFrame) -> pd.DataFrame:
        """predicted, low and high (95 % of the bootstraps) at each row's causes."""
        causes = frame[list(self.causes)].to_numpy(float) / self.units
        each = np.stack([_value(numbers, causes) for numbers in self.draws])
        low, high = np.percentile(each, (2.5, 97.5), axis=0)
        return pd.DataFrame({"predicted": _value(self.numbers, causes), "low": low, "high": high}, index=frame.index)


def fit(frame: pd.DataFrame, by: str = "size", seed: int = 0, bootstraps: int = 0) -> Fit | str:
    """Fit the column `value` by CAUSES[by]; a sentence instead where there are too few runs. bootstraps 0: as usual."""
    causes = CAUSES[by]
    frame = frame.dropna(subset=["value", *causes])
    sizes, horizons = frame["parameters_m"].nunique(), frame["images_seen"].nunique()
    if len(frame) < LEAST_RUNS or sizes < LEAST_SIZES or horizons < LEAST_HORIZONS:
        return (
            f"Nothing is fitted: {LEAST_RUNS} runs, {LEAST_SIZES} sizes and {LEAST_HORIZONS} horizons are needed, and "
            f"{len(frame)}, {sizes} and {horizons} are here."
        )
    kinds = list(zip(frame["parameters_m"], frame["images_seen"], strict=True))
    rows = [tuple(row) for row in frame[["value", *causes]].to_numpy(float).tolist()]
    return _fit(causes, tuple(rows), tuple(kinds), seed, bootstraps or BOOTSTRAPS)


@cache  # a page asks for the same fit in several places, and one takes seconds
def _fit(
    causes: tuple[str, ...], rows: tuple[tuple[float, ...], ...], kinds: tuple[tuple[float, float], ...], seed: int,
    bootstraps: int,
) -> Fit:  # fmt: skip
    """rows: a value and its causes; kinds: size and images of each, of which a bootstrap needs two."""
    values, table = np.array(rows)[:, 0], np.array(rows)[:, 1:]
    units = np.exp(np.log(table).mean(axis=0))
    table = table / units
    best = _fitted(values, table, [_start(values, len(causes), floor, power) for floor in FLOORS for power in STARTS])
    random = np.random.default_rng(seed)
    draws: list[np.ndarray] = []
    while len(draws) < bootstraps:
        drawn = random.integers(0, len(values), len(values))
        if all(len(set(kind)) >= 2 for kind in zip(*(kinds[k] for k in drawn), strict=True)):
            draws.append(_numbers(_fitted(values[drawn], table[drawn], [best])))
    return Fit(causes, units, _numbers(best), np.array(draws), len(rows))


def one_point(found: Fit | str, flops: float, largest: float) -> tuple[float, float, float] | str:
    """(times, low, high) the compute for a value one lower, from a fit to compute; why, where it cannot be said.

    flops: where one begins. largest: of any run that was fitted.
    """
    if isinstance(found, str):
        return found
    if flops > BEYOND * largest:
        return f"More than {BEYOND:g} times the compute of the largest run; a fit is asked no further."
    exponent, low, high = found.exponents["flops"]
    if low <= 0:
        return f"The exponent's interval ({low:.2g} to {high:.2g}) reaches 0: more compute may not help."
    times, *others = (_times(numbers, flops / found.units[0]) for numbers in (found.numbers, *found.draws))
    if not np.isfinite(times):
        return f"The fit's floor, {found.floor:.1f}, leaves less than a point."
    if times * flops > BEYOND * largest:
        return f"It would take {times:.2g} times the compute; a fit is asked up to {BEYOND:g} times the largest run's."
    span = np.quantile(np.array(others), [0.025, 0.975], method="nearest")
    return times, float(span[0]), float(span[1])


def _times(numbers: np.ndarray, at: float) -> float:
    """How many times the compute at `at` (in units) takes the value one lower; infinite below the floor."""
    above = numbers[1] * at ** -numbers[2]
    return float((above / (above - 1)) ** (1 / numbers[2])) if above > 1 and numbers[2] > 1e-6 else np.inf


def _start(values: np.ndarray, causes: int, floor: float, power: float) -> np.ndarray:
    least = values.min()
    factor = np.log(max(values.mean() - floor * least, 1e-6 * least) / causes)
    return np.array([np.log(max(floor, 1e-3) * least), *([factor, power] * causes)])


def _fitted(values: np.ndarray, causes: np.ndarray, starts: list[np.ndarray]) -> np.ndarray:
    """The best of the starts: logarithms of floor and factors, and the exponents."""

    def away(free: np.ndarray) -> np.ndarray:
        return np.log(_value(_numbers(free), causes)) - np.log(values)

    count = causes.shape[1]
    bounds = (
        [-30.0] + [-30.0, EXPONENTS[0]] * count,
        [np.log(values.min())] + [30.0, EXPONENTS[1]] * count,
    )
    found = [least_squares(away, np.clip(s, *bounds), bounds=bounds, loss="huber", f_scale=HUBER) for s in starts]
    return min(found, key=lambda each: each.cost).x


def _numbers(free: np.ndarray) -> np.ndarray:
    numbers = free.copy()
    numbers[0], numbers[1::2] = np.exp(free[0]), np.exp(free[1::2])
    return numbers


def _value(numbers: np.ndarray, causes: np.ndarray) -> np.ndarray:
    return numbers[0] + (numbers[1::2] * causes ** -numbers[2::2]).sum(axis=1)
