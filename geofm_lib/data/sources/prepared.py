"""Prepared folders as a source: one that 01 wrote or a copy of it, or a list of them with commas (a union). No torch.

A prepared folder holds index.csv, split.csv, statistics.json and shards/ with tars and their rows. That of a union
holds no image: its rows and index name the tars of its members, and union.json says which folders these were.
"""

import csv
import hashlib
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geofm_lib import files
from geofm_lib.data.sources import rows
from geofm_lib.settings import PrepareSettings
from geofm_lib.settings.places import NO_PATHS, expanded

NEEDED = ("index.csv", "split.csv", "statistics.json", "shards")
FIRST = "name,label,shard,offset,size,"  # begins the index
UNION, PAIRS = "union.json", "pairs.csv"
MASKS = ("masks/index.csv", "masks/classes.csv")  # of a set that has masks (`data/masks`)
BOXES = ("boxes/index.csv", "boxes/classes.csv")  # of one that has boxes (`data/boxes`)
SCENES_ONLY = ("images_per_class", "scene_size")  # which no other source looks at either
MOST_NAMED = 20  # longer lists are not searched for names that hold commas
AGAIN = "put the folder back, or make the union again with 01_data"


@dataclass(frozen=True)
class Member:
    """A data set of a union. name: short, and no other member's. folder: without links. fingerprint: see below."""

    name: str
    folder: Path
    fingerprint: str


def is_list(text: str) -> bool:
    """Does it name several folders? A path that exists is one, whatever its name."""
    return "," in text and not os.path.exists(expanded(text))


def is_prepared(folder: Path) -> bool:
    """Has 01 written this folder, or most of it? Others call a list index.csv and a folder shards too."""
    try:
        with open(folder / NEEDED[0], encoding="utf-8") as file:
            return file.readline().startswith(FIRST) and (folder / NEEDED[-1]).is_dir()
    except (OSError, ValueError):
        return False


def whole(folder: Path) -> Path:
    """The prepared folder that a folder of shards lies in, else the folder itself."""
    return folder.parent if folder.name == "shards" and is_prepared(folder.parent) else folder


def find(text: str) -> list[Member]:
    """The prepared folders that a list with commas, or the path of one, means: in an order that only they decide.

    Raises ValueError, one sentence, for what is none, is there twice, or has changed.
    """
    folders: list[Path] = []
    parts = text.split(",") if is_list(text) else [text]
    for number, part in enumerate(parts):
        folder = _folder(parts, number)
        if folder in folders:
            raise ValueError(f"'{part.strip()}' is the folder '{folder}', which the list names twice; name it once")
        folders.append(folder)
    known = sorted((_short_name(folder), fingerprint(folder), folder) for folder in folders)
    kinds: dict[str, Path] = {}
    for folder in folders:
        channels, dtype = rows.kind(folder)
        of_series = f", series of {n} dates" if (n := dates(folder)) else ""
        kinds.setdefault(f"{channels} band{'s' * (channels != 1)} of {dtype}{of_series}", folder)
    if len(kinds) > 1:
        one, other = (f"'{folder}' holds images of {words}" for words, folder in [*kinds.items()][:2])
        raise ValueError(f"{one}, and {other}; only sets of one kind can be put together")
    names = [name for name, _, _ in known]
    unique = [name if names.count(name) == 1 else f"{name}-{names[:k].count(name) + 1}" for k, name in enumerate(names)]
    if len(set(unique)) < len(unique):  # somebody called a folder a-2
        unique = [f"{name}-{number}" for number, name in enumerate(unique, start=1)]
    return [Member(name, folder, digest) for name, (_, digest, folder) in zip(unique, known, strict=True)]


def _folder(parts: list[str], number: int) -> Path:
    """The folder that a part of the list means, without links and checked."""
    part = parts[number].strip()
    if not part:
        raise ValueError(f"'{','.join(parts)}' has an empty name between its commas; take the comma away")
    path = expanded(part)
    raw = f"'{part}' is not prepared, and a list holds prepared folders only"
    raw += f"; prepare it first: geofm run 01 -p dataset {part} -p run_dir FOLDER"
    if part in NO_PATHS:
        raise ValueError(raw)
    if not os.path.exists(path):
        spans = itertools.combinations(range(len(parts) + 1), 2) if len(parts) <= MOST_NAMED else ()
        for joined in (",".join(parts[i:j]).strip() for i, j in spans if i <= number < j):
            if os.path.exists(expanded(joined)):
                raise ValueError(f"a list cannot hold '{joined}', whose name has a comma; name a link to it instead")
        raise ValueError(f"there is no folder '{part}', which the list names")
    folder = whole(Path(os.path.realpath(path)))
    job = _json(folder / "settings.json").get("job", "")
    if job and job != "prepare":
        raise ValueError(f"'{part}' is a {job} run; name run folders of 01_data")
    if not is_prepared(folder):
        if job:
            raise ValueError(f"the preparation in '{part}' is not finished; run 01_data on it again")
        raise ValueError(raw)
    check(folder)
    return folder


def check(folder: Path) -> None:
    """Raise ValueError, one sentence, for a prepared folder with files missing or changed, or changed members."""
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        raise ValueError(f"'{folder}' lacks {', '.join(missing)}; copy the whole folder, or prepare it again")
    files.prove(folder, [name for name in files.sums(folder) if name.startswith((*NEEDED, PAIRS))])
    check_members(folder)


def check_members(folder: Path, within: tuple[Path, ...] = ()) -> None:
    """The same for the members alone; none are no fault. within: the unions that this folder is a member of."""
    for member in _json(folder / UNION).get("members", ()):
        path = Path(os.path.normpath(folder / member["folder"]))
        where = f"the set '{member['set']}' of the union in '{folder}'"
        if path in (folder, *within):
            raise ValueError(f"{where} is a union that holds itself; delete '{folder}'")
        if not is_prepared(path):
            raise ValueError(f"{where} is no longer in '{path}'; {AGAIN}")
        check_members(path, (folder, *within))
        if fingerprint(path) != member["fingerprint"]:
            raise ValueError(f"{where} has changed in '{path}'; make the union again in a new folder with 01_data")


def told(folder: str | Path) -> dict[str, Any]:
    """What later pages tell of a preparation: its warnings and how it was split; nothing where that is not there."""
    found = _json(Path(folder) / "summary.json")
    return {"data_warnings": found.get("warnings", []), "data_split": found.get("split_by", "")} if found else {}


def dates(folder: Path) -> int:
    """Of series: how many dates each has; 0 of images."""
    return int(_json(folder / "statistics.json").get("dates", 0))


def train_images(folder: Path) -> int:
    """How many images its split gives to the train side."""
    with open(folder / "split.csv", encoding="utf-8", newline="") as file:
        return sum(row[1] == "train" for row in csv.reader(file))


def bands(folder: Path) -> tuple[int, list[str]]:
    """How many bands its images have, and their names, [] where they have none."""
    found = _json(folder / "statistics.json")
    return found["channels"], found.get("bands", [])


def refuse_without(labels: str, folder: Path) -> None:
    """Raise ValueError, one sentence, for a prepared folder that has no masks, or no boxes (`labels`)."""
    file, done = {"masks": (MASKS[0], "segmented"), "boxes": (BOXES[0], "detected")}[labels]
    if not (folder / file).is_file():
        raise ValueError(f"'{folder}' has no {labels}, so nothing can be {done}; prepare it with labels={labels}")


def all_train(folder: Path) -> bool:
    """May a train_ratio of 1 be why no image is tested on? Also where nothing says so, as of a union's members."""
    return bool(_json(folder / UNION)) or _json(folder / "summary.json").get("train_ratio", 1) == 1


def fingerprint(folder: Path) -> str:
    """Which images there are, their bytes, split and pairs: 16 digits, the same for a copy of the folder elsewhere."""
    union, digest = _json(folder / UNION), hashlib.sha256()
    if union:  # its index says where its members lie
        digest.update("".join(f"{m['set']} {m['fingerprint']}\n" for m in union["members"]).encode())
    beside = [name for name in (PAIRS, *MASKS, *BOXES) if (folder / name).is_file()]
    for name in ("split.csv",) if union else ("index.csv", "split.csv", *beside):
        with open(folder / name, "rb") as file:
            while part := file.read(2**24):
                digest.update(part)
    return digest.hexdigest()[:16]


def name(folder: str | Path) -> str:
    """What a prepared data set is called: as its source was when it was prepared, a union by its members."""
    members = _json(Path(folder) / UNION).get("members", ())
    return " + ".join(member["set"] for member in members) or _short_name(Path(folder))


def signature(text: str) -> str:
    """A short text that changes when a prepared folder, or one of a list, does."""
    return " ".join(f"{member.folder}|{member.fingerprint}" for member in find(text))


def refuse_options(settings: PrepareSettings) -> None:
    """Raise ValueError for an option that is set though it cannot change images that are prepared already."""
    fields = type(settings).model_fields
    for name, value in settings.results_only().items():
        if name not in ("dataset", *SCENES_ONLY) and value != fields[name].default:
            advice = f"leave it at {fields[name].default!r}, or set it where the folder is prepared"
            raise ValueError(f"{name}: {value!r} cannot change prepared folders, which 'dataset' names; {advice}")


def write_union(folder: Path, members: list[Member]) -> None:
    """Leave word in a union's folder of which members it is made."""
    here = os.path.realpath(folder)
    said = [
        {"set": member.name, "folder": os.path.relpath(member.folder, here), "fingerprint": member.fingerprint}
        for member in members
    ]
    (folder / UNION).write_text(json.dumps({"members": said}, indent=1) + "\n", encoding="utf-8")


def _short_name(folder: Path) -> str:
    """What the data set was called when it was prepared, else the folder's name; letters, digits, - and _ only."""
    asked = _json(folder / "settings.json").get("asked", {}).get("dataset", "")
    text = folder.name if not asked or "," in asked else Path(asked).name.split(".")[0]
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text) or "set"


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
