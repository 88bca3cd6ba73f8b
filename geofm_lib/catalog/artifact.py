"""The claims that others can check: a row each of ``artifact.csv``, which ARTIFACT.md shows and `geofm verify` runs.

Columns: `number`; `claim` in words; `how` it is known (measured, simulated, predicted or counted); `run`, what makes
the number; `check`, the function of ``paper/verify_runs`` or ``verify_planned`` that makes it anew ('' where that takes
hours, images that are not in the repository, or another machine); `expected`, `tolerance` (both sides) and `unit` of
the number; `minutes` on two quiet cores, `cores` and `gb` of memory that it needs.
"""

import csv
import io
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

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
    header, rows = _table(file)
    found = [_claim(dict(zip(header, row, strict=True)), f"{file.name}, row {line}") for line, row in rows]
    numbers = [each.number for each in found]
    if numbers != list(range(1, len(found) + 1)):
        raise ValueError(f"{file.name}: claims are numbered from 1 without gaps, and these are {numbers}.")
    return found


def _table(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """(the header, (line, cells) of each row); ValueError for what is no table of claims."""
    try:
        lines = csv.reader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline=""), strict=True)
        (_, header), *rows = [(lines.line_num, row) for row in lines if any(row)] or [(0, [])]
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is no table of claims: it cannot be read as CSV in UTF-8 ({error}).") from None
    columns = [each.name for each in fields(Claim)]
    if missing := [name for name in columns if name not in header]:
        raise ValueError(
            f"{file.name}: its first line must name the columns {', '.join(columns)}; {missing[0]} is missing."
        )
    if other := next((name for name in header if name not in columns or header.count(name) > 1), None):
        raise ValueError(f"{file.name} has a column '{other}' that no claim has, or has it twice; leave it out.")
    if short := next((each for each in rows if len(each[1]) != len(header)), None):
        raise ValueError(
            f"{file.name}, row {short[0]}, has {len(short[1])} cells, and the header {len(header)}; count the commas."
        )
    if not rows:
        raise ValueError(f"{file.name} has no claims, so nothing can be verified.")
    return header, rows


def _claim(row: dict[str, str], where: str) -> Claim:
    numbers = {name: _number(row[name], where, name) for name in ("number", "expected", "tolerance")}
    number = numbers["number"] or 0.0
    if number < 1 or number != int(number):
        raise ValueError(f"{where}: number must be a whole number from 1 on; '{row['number']}' was given.")
    given: dict[str, Any] = row | {"number": int(number), "expected": numbers["expected"]}
    found = Claim(**given | {"tolerance": numbers["tolerance"] or 0.0})
    if found.how not in HOW:
        raise ValueError(f"{where}: claim {found.number} is '{found.how}'; use one of {', '.join(HOW)}.")
    if not 0 <= found.tolerance < math.inf:
        raise ValueError(f"{where}: claim {found.number} has the tolerance {found.tolerance}; it must be 0 or more.")
    if found.expected is not None and not math.isfinite(found.expected):
        raise ValueError(f"{where}: claim {found.number} expects {found.expected}; give a number.")
    if found.check and found.expected is None:
        raise ValueError(f"{where}: claim {found.number} has a check and no expected value.")
    if found.check and not re.match(r"\d", found.minutes):
        raise ValueError(f"{where}: claim {found.number} takes '{found.minutes}'; begin with a number of minutes.")
    return found


def _number(text: str, where: str, column: str) -> float | None:
    """None for an empty cell."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise ValueError(f"{where}: {column} must be a number; '{text}' cannot be read.") from None


def chosen(text: str, table: list[Claim]) -> list[Claim]:
    """The claims whose numbers are named, with spaces or commas (3 5, 13-15); all that have a check where none is.

    ValueError, one sentence, for a number that is none, and for a claim that nothing here can check.
    """
    short = [each for each in table if each.check]
    known = {str(each.number): each for each in table}
    words: list[str] = []
    for word in text.replace(",", " ").split():
        ends = re.fullmatch(r"(\d{1,4})-(\d{1,4})", word)
        several = range(int(ends[1]), int(ends[2]) + 1) if ends else [word]
        if not several:
            raise ValueError(f"'{word}' names no claim; give the smaller number first.")
        words += map(str, several)
    for word in words:
        if word not in known:
            others = _listed([each for each in table if not each.check])
            more = f"; {others} are not: they take longer, or other machines or images" if others else ""
            raise ValueError(f"There is no claim '{word}'; those that are checked are {_listed(short)}{more}.")
        if not known[word].check:
            raise ValueError(f"Claim {word} is not checked by this command; it needs: {known[word].run}.")
    if not short:
        raise ValueError("No claim of the table has a check, so nothing can be verified.")
    return [each for each in short if not words or str(each.number) in words]


def _listed(table: list[Claim]) -> str:
    """Their numbers in words, those that follow one another as a range: 1 to 17, 19."""
    groups: list[list[int]] = []
    for number in (each.number for each in table):
        if groups and groups[-1][-1] == number - 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{each[0]} to {each[-1]}" if len(each) > 1 else f"{each[0]}" for each in groups)


def markdown(table: list[Claim]) -> str:
    """The table of ARTIFACT.md: the short claims first, a line of their own for the others."""
    head = ["", "claim", "how", "run", "minutes", "cores", "GB", "expected"]
    rows = [
        [str(c.number), c.claim, c.how, f"`{c.run}`", c.minutes, c.cores, c.gb, c.wanted]
        for c in table
    ]  # fmt: skip
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
