"""What stands in the cells of a table: labels, one or several, and sides; and how a line of a list falls into cells."""

import ast
import re

from geofm_lib.data.sources import sides
from geofm_lib.data.sources.columns import Columns
from geofm_lib.data.sources.finder import Finder

LONGEST = 200  # letters of a label
MISSING = {"", "nan", "none", "null", "na", "n/a", "-", "<na>", "nat"}


def label(name: str, number: int, cells: list[str], columns: Columns) -> str:
    """The label of a row, several with "|" between them, "" for none."""
    if columns.one_hot:
        return "|".join(_clean(columns.header[k]) for k in columns.label if cells[k].lower() in ("1", "1.0", "true"))
    found: dict[str, None] = {}
    for k in columns.label:
        plural = columns.header[k].lower().rstrip().endswith("s") if columns.header else False
        for part in _several(cells[k], plural):
            part = _clean(part)
            if len(part) > LONGEST:
                raise ValueError(
                    f"labels: line {number} of '{name}' has a label of {len(part)} letters; at most {LONGEST} can be"
                )
            if part.lower() not in MISSING:
                found[part] = None
    return "|".join(found)


def _several(text: str, plural: bool) -> list[str]:
    """The labels of a cell. plural: the column's name is, so that commas part labels, and so do blanks of tags."""
    if text[:1] in "[({" and text[-1:] in "])}" and len(text) > 1:
        try:
            value = ast.literal_eval(text)
            return [str(each) for each in value] if isinstance(value, list | tuple | set) else [text]
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            inside = text[1:-1]
            return [
                part.strip("'\" ") for part in re.split(r"[,;|]" if re.search(r"[,;|]", inside) else r"\s+", inside)
            ]
    if ";" in text or "|" in text:
        return re.split(r"[;|]", text)
    return text.split(",") if plural and "," in text else [text]


def _clean(label: str) -> str:
    return " ".join(label.replace("|", " ").split())


def side(name: str, number: int, text: str, columns: Columns) -> str:
    if text.lower() in MISSING:
        return ""
    side = sides.side_of(text)
    if not side:
        raise ValueError(
            f"labels: line {number} of '{name}' has the side '{text[:80]}' in {columns.named('side')}, which is "
            "neither train, val nor test; correct it, or name another column (side=...)"
        )
    return side


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
