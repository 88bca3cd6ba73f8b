"""A path template: which files are taken, and what their paths say of them.

`{side}/{label}/{place}/*_rgb.jpg` takes the files whose path below the data set's folder reads so. A single top folder,
as archives have, may be left out. A pattern without "/" is held against the file name alone, in whatever folder.

- `*` is any text within a part of the path, `?` one letter, `**` as a part of its own any number of folders.
- `{label}` is the class, `{side}` train, val or test in the usual words. Images of one `{place}`, `{scene}` or
  `{group}` stay on one side of the split.
- `{band}`: files that differ in it alone are the bands of one sample, and are stacked.
- Any other name (`{patch}`, `{id}`, `{date}`) is text as well. Bands belong to one sample where these agree. Without
  such a field they do where the whole path agrees. A name that comes twice must read the same twice.

Each takes as much text as it can, from left to right. Capitals play no part, and every other letter is itself.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

KEPT_TOGETHER = ("place", "scene", "group")  # images of one such stay on one side
ROLES = ("label", "side", "band", *KEPT_TOGETHER)
# What is easily written for a role, and would identify samples instead.
MEANT = {"class": "label", "category": "label", "split": "side", "subset": "side", "channel": "band"}
MOST_OPEN = 6  # pieces without fixed text in one part of the path: matching more could take for ever
_PIECES = re.compile(r"\{(?P<field>[^{}]*)\}|(?P<wild>[*?]+)|(?P<brace>[{}])|[^{}*?]+")
_TEXT = "[^/]"  # one letter within a part


class Match(NamedTuple):
    """What a path says: values of the fields, the text of wildcards, and where the band's name stands in the path."""

    fields: dict[str, str]
    wild: tuple[str, ...]
    band: tuple[int, int]

    def sample(self) -> tuple[str, ...]:
        """The same for all bands of a sample, and for no other."""
        named = any(name not in ROLES for name in self.fields)
        return tuple(text for name, text in self.fields.items() if name != "band") + (() if named else self.wild)


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern. fields: their names, each once, in order."""

    text: str
    regex: re.Pattern[str]
    fields: tuple[str, ...]

    def match(self, path: str) -> Match | None:
        """What `path` says, None where it does not read so."""
        found = self.regex.fullmatch(path)
        if found is None:
            return None
        fields = {name: found[name] for name in self.fields}
        wild = tuple(text or "" for name, text in found.groupdict().items() if name not in fields)
        return Match(fields, wild, found.span("band") if "band" in fields else (0, 0))


@functools.cache
def parse(text: str) -> Pattern:
    """The pattern that a text is. Raises ValueError, one sentence, for one that cannot be meant."""
    said = f"pattern: '{text}'"
    if text.startswith(("/", "~", "\\")) or re.match("[A-Za-z]:", text):
        raise ValueError(f"{said} begins at the root of the disk; write it as seen from the data set's folder")
    if "\\" in text:
        raise ValueError(f"{said} has a backslash; write '/' between folders")
    parts = text.split("/")
    if dots := {".", ".."} & set(parts):
        raise ValueError(f"{said} has '{dots.pop()}/', but only what lies in the data set's folder can be named")
    if "" in parts:
        raise ValueError(f"{said} has an empty part; it must end with a file name and have no '//'")
    if parts.count("**") > 3:
        raise ValueError(f"{said} has '**' more than three times; write the folders that are known")
    names: list[str] = []  # of what is open: fields, and wildcards with an underscore before a number
    if len(parts) == 1:
        parts.insert(0, "**")
    regex = "".join(_part(said, part, names, last=k == len(parts) - 1) for k, part in enumerate(parts))
    fields = tuple(dict.fromkeys(name for name in names if not name.startswith("_")))
    together = [name for name in KEPT_TOGETHER if name in fields]
    if len(together) > 1:
        raise ValueError(
            f"{said} has {{{together[0]}}} and {{{together[1]}}}, but images are kept on one side by one of them only: "
            "give the other another name"
        )
    return Pattern(text, re.compile(regex, re.IGNORECASE | re.DOTALL), fields)


def _part(said: str, part: str, names: list[str], last: bool) -> str:
    """The regular expression of a part of the path; what is open in it is added to `names`."""
    if part == "**":
        names.append(f"_{len(names)}")
        return f"(?P<{names[-1]}>(?:{_TEXT}+/)*{_TEXT}+)" if last else f"(?P<{names[-1]}>(?:{_TEXT}+/)*)"
    regex, before, opened = "", "", len(names)
    for piece in _PIECES.finditer(part):
        text, name, wild = piece[0], piece["field"], piece["wild"]
        if piece["brace"]:
            raise ValueError(f"{said} has a '{text}' without its partner; a field is written {{name}}")
        if name is None and not wild:
            regex, before = regex + re.escape(text), ""
            continue
        if before:
            raise ValueError(
                f"{said}: nothing says where '{before}' ends and '{text}' begins; put the text between them"
            )
        if wild and "**" in wild:
            raise ValueError(f"{said}: '**' stands for whole folders and must be a part of its own, as in '**/*.tif'")
        before = text
        if wild:
            names.append(f"_{len(names)}")
            regex += f"(?P<{names[-1]}>{wild.replace('?', _TEXT).replace('*', _TEXT + '*')})"
        else:
            again = name in names
            names.append(_checked(said, name))
            regex += f"(?P={name})" if again else f"(?P<{name}>{_TEXT}+)"
    if len(names) - opened > MOST_OPEN:
        raise ValueError(f"{said} has more than {MOST_OPEN} open pieces in '{part}'; write more of its text")
    return regex + ("" if last else "/")


def _checked(said: str, name: str) -> str:
    """The name of a field, if it can be one."""
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(f"{said} has the field '{{{name}}}'; write a name of letters, such as {{label}} or {{patch}}")
    word = name.lower().rstrip("s")
    near = get_close_matches(name.lower(), ROLES, n=1, cutoff=0.8)
    meant = MEANT.get(word) or MEANT.get(name.lower()) or (near[0] if near else "")
    if meant and name not in ROLES:
        raise ValueError(f"{said} has the field '{{{name}}}', which nothing reads; write {{{meant}}}, or another name")
    return name


def nearest(text: str, paths: Iterable[str]) -> str:
    """The path that is most like a pattern: most of its last parts read so, and it has as many. "" for no path."""
    wanted = [re.compile(_part("", part, [], last=True), re.IGNORECASE) for part in text.split("/")]

    def likeness(path: str) -> tuple[float, int]:
        parts = path.split("/")
        hits = sum(bool(each.fullmatch(part)) for each, part in zip(wanted[::-1], parts[::-1], strict=False))
        return hits - 0.5 * (len(parts) != len(wanted)), -len(path)

    return max(paths, key=likeness, default="")
