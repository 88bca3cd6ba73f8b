"""The claims that others can check: a row each of ``artifact.csv``, which ARTIFACT.md shows and `geofm verify` runs.

Columns: `number`; `claim` in words; `how` it is known (measured, simulated, predicted or counted); `run`, what makes
the number; `check`, the function of ``paper/verify_checks`` that makes it anew ('' where that takes hours, images that
are not in the repository, or another machine); `expected`, `tolerance` (both sides) and `unit` of the number; `minutes`
on two cores, `cores` and `gb` of memory that it needs.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_suffix(".csv")
HOW = ("measured", "simulated", "predicted", "counted")


@dataclass(frozen=True)
class Claim:
    """A row: `expected` is None where there is no number yet."""

    number: int
    claim: str
    how: str
    run: str
    check: str
    expected: float | None
    tolerance: float
    unit: str
    minutes: str
    cores: str
    gb: str

    @property
    def wanted(self) -> str:
        """The expected value with its tolerance, in words."""
        if self.expected is None:
            return "no number yet"
        number = f"{self.expected:.12g} ± {self.tolerance:.12g}" if self.tolerance else f"exactly {self.expected:.12g}"
        return f"{number} {self.unit}".rstrip()

    def holds(self, found: float) -> bool:
        """Is a number within the tolerance? Not-a-number is not."""
        return self.expected is not None and abs(found - self.expected) <= self.tolerance


def claims(file: Path = FILE) -> list[Claim]:
    """All rows; ValueError, one sentence, for a table that cannot be used."""
    with open(file, newline="", encoding="utf-8") as stream:
        found = [_claim(row, file.name) for row in csv.DictReader(stream)]
    if not found:
        raise ValueError(f"{file.name} has no claims, so nothing can be verified.")
    numbers = [each.number for each in found]
    if numbers != list(range(1, len(found) + 1)):
        raise ValueError(f"{file.name}: claims are numbered from 1 without gaps, and these are {numbers}.")
    return found


def _claim(row: dict[str, str], name: str) -> Claim:
    try:
        expected = float(row["expected"]) if row["expected"] else None
        numbers = {"number": int(row["number"]), "expected": expected, "tolerance": float(row["tolerance"] or 0)}
        found = Claim(**{**row, **numbers})  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: the row '{row.get('number')}' cannot be read ({error}).") from None
    if found.how not in HOW:
        raise ValueError(f"{name}: claim {found.number} is '{found.how}'; use one of {', '.join(HOW)}.")
    if not 0 <= found.tolerance < math.inf:
        raise ValueError(f"{name}: claim {found.number} has the tolerance {found.tolerance}; it must be 0 or more.")
    if expected is not None and not math.isfinite(expected):
        raise ValueError(f"{name}: claim {found.number} expects {expected}; give a number.")
    if found.check and found.expected is None:
        raise ValueError(f"{name}: claim {found.number} has a check and no expected value.")
    return found


def chosen(text: str, table: list[Claim]) -> list[Claim]:
    """The claims whose numbers are named, with spaces or commas; all that have a check where none is.

    ValueError, one sentence, for a number that is none, and for a claim that nothing here can check.
    """
    words = text.replace(",", " ").split()
    short = [each for each in table if each.check]
    known = {str(each.number): each for each in table}
    for word in words:
        if word not in known:
            raise ValueError(f"There is no claim '{word}'; those that are checked are {_listed(short)}.")
        if not known[word].check:
            raise ValueError(f"Claim {word} is not checked by this command; it needs: {known[word].run}.")
    return [each for each in short if not words or str(each.number) in words]


def _listed(table: list[Claim]) -> str:
    return ", ".join(str(each.number) for each in table)


def markdown(table: list[Claim]) -> str:
    """The table of ARTIFACT.md: the short claims first, a line of their own for the others."""
    head = ["", "claim", "how", "run", "minutes", "cores", "GB", "expected"]
    rows = [
        [str(c.number), c.claim, c.how, f"`{c.run}`", c.minutes, c.cores, c.gb, c.wanted]
        for c in table
    ]  # fmt: skip
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
