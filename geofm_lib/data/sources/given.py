"""Labels, sides and groups from the files that the setting `labels` names: tables, and the lists of published splits.

`labels.csv` alone is enough where its columns have usual names. Else `labels.csv:path=Image,label=Class,side=Split`,
and `group=` for images that stay on one side; several columns of one kind with "+".
`lists/train.txt,lists/test.txt`, or `lists/*.txt`, is a published split: the names of the files say the sides.
"""

import glob
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from geofm_lib.data.sources import archives, columns, listing, sides, tables
from geofm_lib.data.sources.collect import Collected, Given
from geofm_lib.data.sources.columns import ROLES
from geofm_lib.data.sources.finder import Finder, is_pattern
from geofm_lib.settings.places import expanded

_OPTIONS = re.compile(rf"^(.*?):\s*((?:{'|'.join(ROLES)})\s*=.*)$")


class Spec(NamedTuple):
    """One part of the setting: a file or a pattern of files, and the columns that were named."""

    file: str
    columns: dict[str, list[str]]


def parse(setting: str) -> list[Spec]:
    """The files of the setting and their columns. Raises ValueError, one sentence, for what cannot be meant.

    >>> parse("pairs.csv:path=before+after,group=cell")
    [Spec(file='pairs.csv', columns={'path': ['before', 'after'], 'group': ['cell']})]
    >>> [spec.file for spec in parse("lists/train.txt, lists/test.txt")]
    ['lists/train.txt', 'lists/test.txt']
    """
    specs: list[Spec] = []
    for piece in filter(None, map(str.strip, setting.split(","))):
        if "=" in piece and specs and ":" not in piece:
            _option(specs[-1], piece)
            continue
        found = _OPTIONS.match(piece)
        specs.append(Spec(found[1].strip() if found else piece, {}))
        if found:
            _option(specs[-1], found[2])
        elif re.search(r":\s*\w+\s*=", piece):
            _option(Spec(piece, {}), piece.rpartition(":")[2])
    if not specs:
        raise ValueError(f"labels: '{setting}' names no file; use labels='table.csv', 'folders' or 'none'")
    return specs


def _option(spec: Spec, text: str) -> None:
    role, _, columns = (part.strip() for part in text.partition("="))
    if role not in ROLES:
        raise ValueError(f"labels: '{role}' of '{text}' is none of {', '.join(ROLES)}")
    if role in spec.columns:
        raise ValueError(f"labels: {role} is given twice; several columns are written {role}=one+other")
    spec.columns[role] = [each.strip() for each in columns.split("+") if each.strip()]
    if not spec.columns[role]:
        raise ValueError(f"labels: '{text}' names no column")
    if role in ("side", "group") and len(spec.columns[role]) > 1:
        raise ValueError(f"labels: {role} is one column, not {len(spec.columns[role])}")


def size(setting: str, source: listing.Source) -> int:
    """Bytes of all its files."""
    contents = [file.content for spec in parse(setting) for file, _ in locate(spec.file, source)]
    return sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in contents)


def glance(setting: str, source: listing.Source, names: Sequence[str] | None) -> None:
    """Raise ValueError, one sentence, for what the first rows of the files show: no table, a column that is missing.

    names: of the images, None where they are not known. A tar is not searched for them.
    """
    closed = source.kind not in ("folder", "zip")
    files = [
        (file, inside, spec.columns) for spec in parse(setting) for file, inside in locate(spec.file, source, closed)
    ]
    into = Collected(names or (), lenient=True)
    for file, inside, asked in files:
        if not file.glance():
            continue
        if names is None:
            with tables.reading(file) as rows:
                head = [row for _, row in itertools.islice(rows, tables.SAMPLE)]
            columns.named(file.name, head[0], asked)
        else:
            side = sides.mentioned(Path(file.name).name) if len(files) > 1 else ""
            into.add(file, asked, Finder(names, inside), side, tables.SAMPLE)


def read(
    setting: str,
    source: listing.Source,
    names: Sequence[str],
    partly: bool = False,
    lenient: bool = False,
) -> Given:
    """What the files of `setting` say of the images called `names`.

    Raises ValueError, one sentence, for a file that is missing, damaged or contradicts itself, and when it names none
    of the images (unless `partly`: the names are not the final ones). lenient: a row that could mean several images
    means none, since some of them may yet be refused.
    """
    found = [
        (file._replace(typed="" if is_pattern(spec.file) else spec.file), inside, spec.columns)
        for spec in parse(setting)
        for file, inside in locate(spec.file, source)
    ]
    into = Collected(names, lenient)
    for file, inside, asked in found:
        side = sides.mentioned(Path(file.name).name) if len(found) > 1 else ""
        into.add(file, asked, Finder(names, inside), side)
    return into.result(partly)


def locate(text: str, source: listing.Source, closed: bool = False) -> list[tuple[tables.File, str]]:
    """(file, its folder within the data set) of a path or pattern: as typed, in the data set's folder or archive.

    closed: archives are not opened for it; then nothing is found where the file could be in one.
    """
    typed, relative = expanded(text), not Path(text).expanduser().is_absolute()
    base = source.path if source.kind == "folder" and source.path else None
    if is_pattern(text):
        above = expanded(".") / text if relative else typed
        outside = sorted(path for path in map(Path, glob.glob(str(above), recursive=True)) if path.is_file())
        inside = sorted(path for path in base.glob(text) if path.is_file()) if base and relative else []
        found = [_on_disk(path, base) for path in inside or outside]
    else:
        found = [_on_disk(path, base) for path in ((base / text,) if base else ()) if path.is_file()]
        found = found or [_on_disk(typed, base)] * typed.is_file()
    if not found and (typed.is_dir() or base is not None and (base / text).is_dir()):
        raise ValueError(f"labels: '{text}' is a folder; name its files, as in labels='{text}/*.txt'")
    if not found and source.path and source.kind != "folder":
        if closed:
            return []
        found = _in_archive(text, source)
    if not found:
        where = f"neither here nor in '{source.path}'" if source.path else "nowhere"
        raise ValueError(f"labels: '{text}' is {where}; give the path of a table or list, or 'folders' or 'none'")
    return found


def _on_disk(path: Path, base: Path | None) -> tuple[tables.File, str]:
    inside = path.resolve().parent
    within = base is not None and inside.is_relative_to(base.resolve())
    relative = inside.relative_to(base.resolve()).as_posix() if within and base else ""
    return tables.File(path.name, path), "" if relative == "." else relative


def _in_archive(text: str, source: listing.Source) -> list[tuple[tables.File, str]]:
    """Members of an archive by their path, or by the end of it."""
    wanted, many = archives.clean(text), is_pattern(text)

    def fits(name: str) -> bool:
        name = archives.clean(name)
        if not name.lower().endswith(tables.SUFFIXES):
            return name == wanted
        return bool(Finder([name]).all(wanted)) if many else name == wanted or name.endswith("/" + wanted)

    found = [(archives.clean(name), load) for name, load in archives.entries(source, fits, [])]
    if len(found) > 1 and not many:
        exact = [each for each in found if each[0] == wanted]
        if len(exact) != 1:
            raise ValueError(
                f"labels: '{text}' could be {' or '.join(repr(name) for name, _ in found[:3])}; give its path"
            )
        found = exact
    return [
        (tables.File(name.rpartition("/")[2], load() if callable(load) else load), name.rpartition("/")[0])
        for name, load in found
    ]
