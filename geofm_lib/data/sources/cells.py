"""What stands in the cells of a table: labels, one or several, and sides; and how a line of a list falls into cells."""

import ast
import functools
import re

from geofm_lib.data import several
from geofm_lib.data.sources import sides
from geofm_lib.data.sources.columns import Columns
from geofm_lib.data.sources.finder import Finder

YES = ("1", "1.0", "true")
LONGEST = 200  # letters of a label
# What pandas reads as missing; "none" in small letters is a class there too.
NO_LABEL = set("- NaT <NA> N/A NA NULL NaN None n/a nan null -NaN -nan #N/A #NA".split()) | {"", "#N/A N/A"}
MISSING = {"", "nan", "none", "null", "na", "n/a", "-", "<na>", "nat"}


def label(name: str, number: int, row: list[str], columns: Columns) -> str:
    """The label of a row, several with "|" between them, "" for none."""
    if columns.one_hot:
        bits = [row[k].lower() for k in columns.label]
        names = [_clean(columns.header[k]) for k, bit in zip(columns.label, bits, strict=True) if bit in YES]
        return "|".join(names) or (several.NONE if all(bits) else "")
    if len(columns.label) == 1:
        k = columns.label[0]
        found = _labels(row[k], columns.header[k] if columns.header else "")
    else:
        found = "|".join(several.parts("|".join(_labels(row[k], columns.header[k]) for k in columns.label)))
    if len(found) > LONGEST and (longest := max(map(len, found.split("|")))) > LONGEST:
        raise ValueError(
            f"labels: line {number} of '{name}' has a label of {longest} letters; at most {LONGEST} can be"
        )
    return found


@functools.lru_cache(maxsize=65_536)
def _labels(text: str, header: str) -> str:
    """The labels of a cell, each once. header: commas part them where it is a plural, and blanks where it is tags."""
    parts = list(map(_clean, _several(text, header.strip().lower())))
    if not any(parts):
        return several.NONE if text else ""  # such as []
    return "|".join(dict.fromkeys(part for part in parts if part not in NO_LABEL))


def _several(text: str, header: str) -> list[str]:
    if text[:1] in "[({" and text[-1:] in "])}" and len(text) > 1:
        try:
            value = ast.literal_eval(text)
            return [str(each) for each in value] if isinstance(value, list | tuple | set) else [text]
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            inside = text[1:-1]
            parts = re.split(r"[,;|]", inside) if re.search(r"[,;|]", inside) else inside.split()
            return [part.strip("'\" ") for part in parts]
    if ";" in text or "|" in text:
        return re.split(r"[;|]", text)
    if "," in text and header.endswith("s"):
        return text.split(",")
    return text.split() if header == "tags" else [text]


def _clean(label: str) -> str:
    return " ".join(label.replace("|", " ").split())


def side(name: str, number: int, text: str, columns: Columns) -> str:
    """The side that a cell names, "" for none; ValueError for a word that is none."""
    found = _side_of(text)
    if not found and text.lower() not in MISSING:
        raise ValueError(
            f"labels: line {number} of '{name}' has the side '{text[:80]}' in {columns.named('side')}, which is "
            "neither train, val nor test; correct it, or name another column (side=...)"
        )
    return found


_side_of = functools.lru_cache(maxsize=1024)(sides.side_of)


def words(lines: list[str], find: Finder) -> int:
    """How many words stand behind the path in the lines of a list: 0, 1 (its label) or 2 (label and number)."""
    hits = [sum(find(cut(line, words)[0]) >= 0 for line in lines) for words in range(3)]
    return hits.index(max(hits))


def cut(line: str, words: int) -> list[str]:
    """The path of a line, and the words behind it.

    >>> cut("Dense Residential/1.jpg DenseResidential 3", 2)
    ['Dense Residential/1.jpg', 'DenseResidential', '3']
    """
    cells = line.rsplit(None, words) if words else [line]
    return cells + [""] * (words + 1 - len(cells))
