"""What the rows of one or several tables say of each image, and whether they agree."""

import itertools
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geofm_lib.data import several
from geofm_lib.data.sources import cells, tables
from geofm_lib.data.sources.columns import Columns, choose
from geofm_lib.data.sources.finder import NONE, SEVERAL, Finder, is_pattern

SEVERAL_SHARE = 0.2  # of the images have several labels in rows of their own, where that is meant
TOO_MANY = 50  # different labels, when most images have their own: they are no classes
_MEASURED = re.compile(r"[+-]?(?:\d*[.,]\d*[1-9]\d*(?:e[+-]?\d+)?|\d+(?:[.,]\d*)?e[+-]\d+)", re.IGNORECASE)


@dataclass
class Given:
    """labels, sides, groups: of each image, "" where nothing says; [] where no file has any.

    words: {"label": "column 'class' of labels.csv", ...}. listed: is the image in a row? files: their names, as they
    lie in the data set.
    """

    labels: list[str]
    sides: list[str]
    groups: list[str]
    words: dict[str, str] = field(default_factory=dict)
    listed: list[bool] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Collected:
    """What the rows said so far, by image."""

    def __init__(self, names: Sequence[str], lenient: bool = False):
        count, self.lenient = len(names), lenient
        self.names = names
        self.values: dict[str, list[str]] = {role: [""] * count for role in ("label", "side", "group")}
        self.line = array("q", bytes(8 * count))  # of the first row of each image, 0 for none
        self.file = array("i", bytes(4 * count))  # the place in `files` of the file that has this row
        self.more: dict[int, list[str]] = {}  # image -> labels of further rows
        self.shared: dict[str, str] = {}
        self.words: dict[str, list[str]] = {"label": [], "side": [], "group": []}
        self.rows = self.lost = self.unlabelled = 0
        self.example = self.conflict = self.bare = ""  # bare: a list of paths alone
        self.told: list[str] = []
        self.missing: Counter[str] = Counter()  # words that stand for no label
        self.files: list[str] = []
        self.paths: list[str] = []

    def add(
        self, file: tables.File, asked: dict[str, list[str]], find: Finder, side: str, most: int | None = None
    ) -> None:
        """Take in a file. side: that of all its images, by the file's name. most: rows to read."""
        self.files.append(file.name)
        self.paths.append(f"{find.inside}/{file.name}".lstrip("/"))
        with tables.reading(file) as rows:
            head = list(itertools.islice(rows, tables.SAMPLE + 1))
            widths = {len(row) for _, row in head}
            lines = widths == {1}
            words = cells.words([row[0] for _, row in head], find) if lines else 0
            split = (lambda row: cells.cut(row[0], words)) if words else (lambda row: row)
            columns = choose(file.name, [split(row) for _, row in head], asked, find, False, file.typed, bool(side))
            self.told += [columns.told] * bool(columns.told)
            self.bare = self.bare or (
                str(file.content) if lines and not words and isinstance(file.content, Path) else ""
            )
            for role in ("label", "side", "group"):
                if getattr(columns, role) or (role == "side" and columns.flags):
                    self.words[role].append(_said(columns, role, file.name))
            if side and not (columns.side or columns.flags):
                self.words["side"].append(file.name)
            for number, row in itertools.islice(itertools.chain(head[1:] if columns.header else head, rows), most):
                self._row(file.name, number, split(row), columns, find, side)

    def _row(self, name: str, number: int, row: list[str], columns: Columns, find: Finder, side: str) -> None:
        self.rows += 1
        label = cells.label(name, number, row, columns)
        if not label and columns.label and not columns.one_hot:
            self.missing.update(filter(None, (row[k] for k in columns.label)))
        if columns.side:
            side = cells.side(name, number, row[columns.side[0]], columns)
        elif columns.flags:
            said = {k: row[k].lower() for k in columns.flags}
            rest = columns.rest if all(said.values()) else ""
            side = next((side for k, side in columns.flags.items() if said[k] in cells.YES), rest)
        group = row[columns.group[0]] if columns.group else ""
        places: Iterable[int] = _places(name, number, [row[k] for k in columns.path], find, self.lenient)
        nothing = True
        for place in places:
            nothing = False
            again = self.line[place]
            self.line[place] = again or number
            self.file[place] = self.file[place] if again else len(self.files) - 1
            before, here = f"line {again} of '{self.files[self.file[place]]}'", f"line {number} of '{name}'"
            for role, value in (("side", side), ("group", group)):
                if value and self._set(role, place, value):
                    raise ValueError(
                        f"labels: '{self.names[place]}' has the {role} '{self.values[role][place]}' in {before}, and "
                        f"'{value}' in {here}; an image has one: take it out of one of them, or correct it there"
                    )
            if label and self._set("label", place, label):
                more = self.more.setdefault(place, [])
                more.append(self.shared.setdefault(label, label))
                self.conflict = self.conflict or (
                    f"labels: '{self.names[place]}' is '{self.values['label'][place]}' in {before}, and '{label}' "
                    f"in {here}; correct one, or write several labels in one row, as in 'a|b'"
                )
        if nothing:
            self.lost += 1
            self.example = self.example or next((row[k] for k in columns.path if row[k]), "")

    def _set(self, role: str, place: int, value: str) -> bool:
        """Keep the first value of an image; is this another one?"""
        values = self.values[role]
        if not values[place]:
            values[place] = self.shared.setdefault(value, value)
        return values[place] != value

    def result(self, partly: bool) -> Given:
        listed = [line != 0 for line in self.line]
        count, which = sum(listed), " and ".join(f"'{name}'" for name in dict.fromkeys(self.files[:3]))
        if not count and not partly:
            image = f", an image is called '{self.names[0]}'" if self.names else ""
            raise ValueError(
                f"labels: none of the {self.rows} rows of {which} names an image: they say '{self.example}'{image}"
            )
        labels, warnings = self.values["label"], list(self.told)
        if self.more:
            if len(self.more) < SEVERAL_SHARE * sum(map(bool, labels)):
                raise ValueError(self.conflict)
            for place, more in self.more.items():
                joined = "|".join(several.parts("|".join([labels[place], *more]))) or several.NONE
                labels[place] = self.shared.setdefault(joined, joined)
        if not several.are_several(labels):  # where an image has one label, to have none is to have no label
            labels[:] = ["" if label == several.NONE else label for label in labels]
        labelled = sum(map(bool, labels))
        kinds = set(labels) - {"", several.NONE}
        parts = {part for label in kinds for part in label.split("|")}
        measured = [part for part in parts if _MEASURED.fullmatch(part)]
        if 2 * len(measured) > len(parts) > min(TOO_MANY, 0.5 * labelled):
            raise ValueError(
                f"labels: {self.words['label'][0]} has {len(parts)} different numbers for {labelled} images, such as "
                f"{min(measured)}: measured values, and no classes; name another column (label=...), or use labels=none"
            )
        if len(parts) > max(TOO_MANY, 0.5 * labelled):
            raise ValueError(
                f"labels: {self.words['label'][0]} has {len(parts)} different values for {labelled} images, such as "
                f"'{min(parts)}', so they are no classes; name another column (label=...)"
            )
        if kinds and all(re.fullmatch(r"-?\d+\.0+", part) for part in parts):
            short = {label: "|".join(part.partition(".")[0] for part in label.split("|")) for label in kinds}
            labels = [short.get(label, label) for label in labels]
        if len(parts) == 1 and labelled:
            warnings.append(f"all labels of {which} are '{min(parts)}': one class cannot be told from another")
        if self.lost:
            warnings.append(f"{self.lost} of {self.rows} rows of {which} name no image here, such as '{self.example}'")
        if count and count < len(listed) and not (self.words["side"] or self.words["group"]):  # the split says so
            lone = self.names[listed.index(False)]
            warnings.append(f"{len(listed) - count} images stand in no row of {which}, such as '{lone}'")
        if self.words["label"] and labelled < count:
            counted = ", ".join(f"{n} '{word}'" for word, n in self.missing.most_common(4))
            hint = (
                f" ({counted}: read as missing, as pandas does; give it another name if it is a class)"
                if counted
                else ""
            )
            warnings.append(f"{count - labelled} rows of {which} have no label{hint}")
        if not partly and not any(any(values) for values in self.values.values()):
            empty = f": {self.words['label'][0]} has none" if self.words["label"] else ""
            how = "name a column, as in labels='table.csv:path=...,label=...'"
            if self.bare:
                how = f"to take only the images that it lists, with their paths, set dataset='{self.bare}'"
            raise ValueError(
                f"labels: {which} says neither labels, sides nor groups{empty}; {how}, or use 'folders' or 'none'"
            )
        words = {role: ", ".join(dict.fromkeys(told)) for role, told in self.words.items() if any(self.values[role])}
        sided, grouped = (self.values[role] if role in words else [] for role in ("side", "group"))
        return Given(labels if "label" in words else [], sided, grouped, words, listed, self.paths, warnings)


def _said(columns: Columns, role: str, name: str) -> str:
    if role == "side" and columns.flags:
        return f"columns {', '.join(columns.header[k] for k in columns.flags)} of {name}"
    if not columns.header:
        return name
    places = getattr(columns, role)
    if len(places) > 2:
        return f"{len(places)} columns of {name}"
    return f"column{'s' * (len(places) > 1)} {columns.named(role)} of {name}"


def _places(name: str, number: int, texts: list[str], find: Finder, lenient: bool) -> Iterator[int]:
    """The images that the paths of a row mean."""
    for text in texts:
        place = find(text)
        if place == NONE and is_pattern(text):
            yield from find.all(text)
        if place == SEVERAL and not lenient:
            raise ValueError(
                f"labels: line {number} of '{name}' says '{text}', which several images end with; write more of it"
            )
        if place >= 0:
            yield place
