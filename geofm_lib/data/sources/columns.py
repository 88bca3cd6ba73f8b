"""Which column of a table says what: the image, its label, its side, its group; by name, else by what stands in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from geofm_lib.catalog.suggest import did_you_mean
from geofm_lib.data.sources import guards, listing, sides
from geofm_lib.data.sources.finder import SEVERAL, Finder, is_pattern

ROLES = ("path", "label", "side", "group")
# Usual names, small letters without signs, the most telling first.
NAMES = {
    "path": "path imagepath filepath filename file fname imagefile imagefilename image imagename img imgname imgpath "
    "images imagelabel relativepath relpath name patch patchname patchid imageid id imgid chip "
    "chipname tile tilename key uri",
    "label": "label labels classname labelname class classes category categories tag tags classlabel target landcover "
    "landuse lulc y",
    "side": "split side partition subset set datasplit phase fold",
    "group": "group groupid scene sceneid place placeid location locationid cell cellid block blockid site siteid "
    "cluster",
}
_NAMES = {role: names.split() for role, names in NAMES.items()}
_FLAGS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_FLAGS |= {f"is{word}": side for word, side in _FLAGS.items()}
_REST = {"train": "test", "test": "train", "val": "train"}  # what the other images of one such column alone are
_BITS = {"0", "1", "0.0", "1.0", "true", "false"}


@dataclass
class Columns:
    """The places of the columns. header: is the first row one? flags: {place: side} of columns of 0 and 1."""

    header: list[str]
    path: list[int]
    label: list[int] = field(default_factory=list)
    side: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    flags: dict[int, str] = field(default_factory=dict)
    rest: str = ""  # the side of images that none of them names
    one_hot: bool = False  # labels are the names of columns of 0 and 1
    told: str = ""  # a sentence for the page, where a label was not known by its name
    options: str = ""  # what stands behind the name of the file to say it

    def named(self, role: str) -> str:
        """The names of the columns of a role, as the setting has them."""
        return (
            "+".join(self.header[k] for k in getattr(self, role))
            if self.header
            else "column " + str(getattr(self, role)[0] + 1)
        )


def choose(
    name: str,
    rows: Sequence[list[str]],
    asked: dict[str, list[str]],
    find: Finder,
    several_groups: bool = False,
    typed: str = "",
    sided: bool = False,
) -> Columns:
    """The columns of a table by its first rows. asked: names of columns by role, as the setting says.
    typed: how the setting names the file. sided: does its name say the side of its images?

    Raises ValueError, one sentence, where a column is missing, comes twice, or could be several.
    """
    first, rest = rows[0], rows[1:]
    plain = [guards.only_letters(cell) for cell in first]
    usual = {word for words in _NAMES.values() for word in words} | set(_FLAGS)
    hits = [_share([cell], find) for cell in first]
    header = bool(asked) or not any(hits) and (bool(usual & set(plain)) or bool(rest))
    if not header:
        return _without_header(name, rows, find)
    found = Columns(first, [])
    for role, places in named(name, first, asked).items():
        setattr(found, role, places)
    _paths(name, found, plain, rest, find)
    taken = {place for role in ROLES for place in getattr(found, role)}
    left = [k for k in range(len(first)) if k not in taken]
    if "side" not in asked:
        _sides(name, found, plain, left, rest)
    if "label" not in asked:
        labelled = [k for k in left if plain[k] in _NAMES["label"] and k not in found.flags and k not in found.side]
        best = sorted(labelled, key=lambda k: _NAMES["label"].index(plain[k]))
        if best:
            found.label = [_single(name, found, best[0])]
        else:
            bits = [k for k in left if k not in found.flags and k not in found.side and _are_bits(rest, k)]
            found.label, found.one_hot = (bits, True) if len(bits) > 2 else ([], False)
    else:
        found.one_hot = len(found.label) > 1 and all(_are_bits(rest, k) for k in found.label)
    if "group" not in asked:
        groups = [
            k for k in left if (plain[k] in _NAMES["group"] or plain[k].startswith("cell")) and k not in found.label
        ]
        if len(groups) > 1 and not several_groups:
            both = " and ".join(f"'{first[k]}'" for k in groups)
            raise ValueError(
                f"labels: {both} of '{name}' could say which images belong together; choose one: "
                f"labels='{name}:group={first[groups[-1]]}'"
            )
        found.group = groups
    if found.path and not found.label and not set(asked) - {"path"}:
        _guess(name, typed or name, found, rest, sided)
    return found


def _guess(name: str, typed: str, found: Columns, rows: Sequence[list[str]], sided: bool) -> None:
    """A label by what stands in the only column that can be one, unless the table says sides or groups.

    Raises ValueError, with the setting that works, where a table says nothing that is known.
    """
    taken = {*found.path, *found.side, *found.group, *found.flags}
    left = [k for k in range(len(found.header)) if k not in taken and found.header[k]]
    likely = [k for k in left if _are_classes([row[k] for row in rows])]
    path = "+".join(found.header[k] for k in found.path)
    options = [f":path={path},label={found.header[k]}" for k in likely or left]
    if found.side or found.flags or found.group:
        if len(likely) == 1:
            found.told = (
                f"column '{found.header[likely[0]]}' of '{name}' is not used: labels='{typed}{options[0]}' does"
            )
    elif len(likely) == 1:
        found.label, found.options = likely, options[0]
        found.told = (
            f"column '{found.header[likely[0]]}' of '{name}' is taken for the labels, since no other can be: "
            f"labels='{typed}:path={path},label=...' takes another"
        )
    elif rows and not sided:
        columns = ", ".join(found.header[:8])
        how = (
            f"say labels='{typed}{options[0]}'" if options else "add one beside the paths, or give the list as dataset"
        )
        raise ValueError(f"labels: no column of '{name}' is known as a label, side or group (it has {columns}); {how}")


def _are_classes(cells: Sequence[str]) -> bool:
    """Texts of which few are different, and not numbers (also with a decimal comma), dates or files."""
    cells = [cell for cell in cells if cell]
    if not cells or any(map(listing.is_image_name, cells)):
        return False
    numbers = sum(bool(re.fullmatch(r"[+-]?[\d.,:eE/+-]*\d[\d.,:eETZ/ +-]*%?", cell)) for cell in cells)
    return numbers < 0.5 * len(cells) and 1 < len(set(cells)) <= max(2, len(cells) // 2)


def named(name: str, header: list[str], asked: dict[str, list[str]]) -> dict[str, list[int]]:
    """The places of the columns that the setting names, by role; ValueError, one sentence, for one that is missing."""
    return {role: [_place(name, role, column, header) for column in columns] for role, columns in asked.items()}


def _place(name: str, role: str, column: str, header: list[str]) -> int:
    exact = [k for k, cell in enumerate(header) if cell == column]
    found = exact or [k for k, cell in enumerate(header) if guards.only_letters(cell) == guards.only_letters(column)]
    if not found:
        hint = did_you_mean(column, header) or f"; it has {', '.join(header[:8])}{' ...' if len(header) > 8 else ''}"
        raise ValueError(f"labels: '{name}' has no column '{column}' for {role}{hint}")
    if len(found) > 1:
        raise ValueError(f"labels: '{name}' has the column '{column}' {len(found)} times; rename one")
    return found[0]


def _single(name: str, found: Columns, place: int) -> int:
    """A recognised column, refused where another has the same name."""
    return _place(name, "", found.header[place], found.header)


def _paths(name: str, found: Columns, plain: list[str], rows: Sequence[list[str]], find: Finder) -> None:
    """Fill in the columns of paths: by name where images are found by it, else by what stands in them."""
    if found.path:
        return
    shares = {k: _share([row[k] for row in rows], find) for k in range(len(plain))}
    by_name = sorted((k for k in shares if plain[k] in _NAMES["path"]), key=lambda k: _NAMES["path"].index(plain[k]))
    others = set(_NAMES["label"] + _NAMES["side"])
    shares = {k: share for k, share in shares.items() if plain[k] not in others}
    good = [k for k in shares if shares[k] > 0.5 * max(shares.values()) and shares[k] > 0]
    if not set(by_name) & set(good):  # few of the rows may be about images that are there
        good += [k for k in shares if k not in good and k not in by_name and _are_files([row[k] for row in rows])]
    named = [k for k in by_name if k in good]
    if not named:  # a column that names several images is the one that is meant, and is refused later
        named = [k for k in by_name if any(find(row[k]) == SEVERAL for row in rows)]
    if named:
        found.path = [_single(name, found, named[0])]
    elif good:
        places = {k: {find(row[k]) for row in rows} for k in good}
        found.path = [good[0]]
        for k in good[1:]:  # columns that name other images, such as those of two dates
            if not places[k] & set.union(*(places[each] for each in found.path)) - {-1, -2}:
                found.path.append(k)
    elif by_name:
        found.path = [_single(name, found, by_name[0])]
    elif find.names:
        columns = ", ".join(found.header[:8])
        raise ValueError(f"labels: no column of '{name}' names images (it has {columns}); say labels='{name}:path=...'")


def _sides(name: str, found: Columns, plain: list[str], left: list[int], rows: Sequence[list[str]]) -> None:
    flags = {k: _FLAGS[plain[k]] for k in left if plain[k] in _FLAGS and _are_bits(rows, k)}
    if flags:
        missing = [side for side in sides.SIDES if side not in flags.values()]
        found.flags = flags
        found.rest = _REST[next(iter(flags.values()))] if len(flags) == 1 else missing[0] if len(missing) == 1 else ""
        return
    for k in left:
        if plain[k] == "fold" and not any(sides.side_of(row[k]) for row in rows):
            found.told = f"column '{found.header[k]}' of '{name}' is not used: its values are names of no side"
    for word in _NAMES["side"]:
        for k in left:
            if plain[k] == word and (word != "fold" or any(sides.side_of(row[k]) for row in rows)):
                found.side = [_single(name, found, k)]
                return


def _without_header(name: str, rows: Sequence[list[str]], find: Finder) -> Columns:
    """A table that begins with its first image: the path, and of the others a side, and a label that is no number."""
    shares = [_share([row[k] for row in rows], find) for k in range(len(rows[0]))]
    path = shares.index(max(shares))
    left = [k for k in range(len(shares)) if k != path]
    side = [k for k in left if all(sides.side_of(row[k]) for row in rows)]
    left = [k for k in left if k not in side]
    texts = [k for k in left if not all(_is_number(row[k]) for row in rows)]
    label = (texts or left)[:1]
    if len(texts) > 1:
        raise ValueError(
            f"labels: '{name}' has no header, and {len(texts)} columns that may be labels; give it a header"
        )
    return Columns([], [path], label, side)


def _share(cells: Sequence[str], find: Finder) -> float:
    """How many of some cells name one image; of patterns the first few are asked for all."""
    cells = [cell for cell in cells if cell]
    patterns = [cell for cell in cells if is_pattern(cell)]
    hits = sum(find(cell) >= 0 for cell in cells if not is_pattern(cell))
    return (hits + len(patterns) * any(map(find.all, patterns[:3]))) / max(1, len(cells))


def _are_files(cells: Sequence[str]) -> bool:
    """Are nearly all of them names of image files?"""
    cells = [cell for cell in cells if cell]
    return bool(cells) and sum(map(listing.is_image_name, cells)) > 0.9 * len(cells)


def _are_bits(rows: Sequence[list[str]], k: int) -> bool:
    values = {row[k].lower() for row in rows} - {""}
    return bool(values) and values <= _BITS


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[+-]?\d+(\.\d*)?", text))
