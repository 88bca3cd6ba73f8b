"""What of a run folder may leave it: texts without names of people and machines, paths without folders, no secrets.

Pictures stay, unless they are of the built-in scenes: whose images they are, nobody here knows.
"""

import mmap
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from geofm_lib import files, rights
from geofm_lib.figures.pretrain import drawn_by_us
from geofm_lib.jobs import owner
from geofm_lib.jobs.run_folder import HEARTBEATS, UNSEALED
from geofm_lib.runs import results
from geofm_lib.runs.run import Run
from geofm_lib.settings import runs_root
from geofm_lib.settings.masking import mask

TEXTS = (".json", ".jsonl", ".csv", ".md", ".html", ".ipynb", ".txt")
PICTURES = (
    "contact_sheet.npz",
    "model_view.npz",
    "reconstruction.npz",
    "confused.npz",
    "retrieval.npz",
    "segments.npz",
    "detections.npz",
)
PAGE = "report.html"
WITH_IMAGES = ("prepare", "pretrain", "probe", "transfer")  # jobs that keep and show images
ENCODED = re.compile(r"(base64,[A-Za-z0-9+/=]+)")  # pictures in a page; what looks like a path there is none
BEFORE = r"(?:(?<![\w/.+<~-])|(?<=\\n)|(?<=\\t))"  # a path that begins here is no part of an address or a relative one
PATH = re.compile(rf"(?:file://|{BEFORE}~?)/(?:[^\s/\"'<>|,;:()\\]+/)+([^\s/\"'<>|,;:()\\]*)")
OWN_WORDS = {"root", "geofm", "user", "data", "train", "test", "val", "model", "node", "host", "localhost", "jovyan"}


@dataclass(frozen=True)
class Public:
    """One run's files, as others may have them."""

    run: Run

    @cached_property
    def own_images(self) -> bool:
        """Are all its images, if it shows any, drawn by us?"""
        return self.run.job not in WITH_IMAGES or drawn_by_us(self.run.settings)

    @cached_property
    def names(self) -> list[str]:
        """Its files that may be handed on, '/' between folders, sorted; pictures only of the built-in scenes."""
        own = self.own_images
        tops = [each for each in self.run.folder.iterdir() if each.name not in UNSEALED and each.name[0] != "."]
        found = [each for top in tops for each in (top, *top.rglob("*")) if each.is_file() and each.suffix != ".tar"]
        kept = [each for each in found if each.name != files.SUMS and (own or each.name not in PICTURES)]
        page = [self.run.folder / PAGE] if own and (self.run.folder / PAGE).is_file() else []
        return sorted(each.relative_to(self.run.folder).as_posix() for each in (*kept, *page))

    def text(self, text: str) -> str:
        """A text of the run without what is private."""
        pieces = ENCODED.split(text)
        pieces[::2] = [self._plain(each) for each in pieces[::2]]
        return "".join(pieces)

    def file(self, name: str, into: Path) -> Path | None:
        """The file to hand on: a text's copy in the folder `into`, else the file itself; None if it names a place."""
        there = self.run.proved(name)
        if there.suffix in TEXTS:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            files.write_text(into / name, self.text(there.read_text(encoding="utf-8", errors="replace")))
            return into / name
        with open(there, "rb") as stream:
            if not os.fstat(stream.fileno()).st_size:
                return there
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return None if any(content.find(each.encode()) >= 0 for each in self._places) else there

    def _plain(self, text: str) -> str:
        for place in self._places:
            text = text.replace(place, self.run.folder.name if place == str(self.run.folder) else "")
        text = PATH.sub(lambda found: found[1] or "folder", mask(text))
        for word, instead in self._words.items():
            text = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", instead, text)
        return text

    @cached_property
    def _places(self) -> list[str]:
        """Folders that say whose they are, the longest first."""
        found = {str(self.run.folder), str(runs_root()), str(results.ROOT), os.path.expanduser("~")}
        return sorted((each for each in found if each.count("/") > 1), key=len, reverse=True)

    @cached_property
    def _words(self) -> dict[str, str]:
        """{a name of a person or machine: what stands instead}."""
        people = {rights.user(), rights.owner(self.run.folder), os.environ.get("LOGNAME", ""), *self._launched("user")}
        machines = {socket.gethostname(), *self._hosts()} - {""}
        instead = dict.fromkeys(sorted(people), "somebody")
        instead |= {name: f"node{count}" for count, name in enumerate(sorted(machines), 1)}
        return {name: word for name, word in instead.items() if name and name not in OWN_WORDS}

    def _hosts(self) -> Iterator[str]:
        where = self.run.environment
        yield from (str(where.get(name, "")) for name in ("host", "launcher_host"))
        yield from map(str, where.get("nodes", []))
        yield from self._launched("host")
        for file in self.run.folder.glob(f"{HEARTBEATS}/*"):
            yield str(self.run.read_json(f"{HEARTBEATS}/{file.name}").get("node", ""))

    def _launched(self, name: str) -> Iterator[str]:
        for file in self.run.folder.glob(f"{owner.OWNERS}/*.json"):
            yield str(self.run.read_json(f"{owner.OWNERS}/{file.name}").get(name, ""))
