"""Where `geofm verify` runs things: the project's own commands in processes of their own, their runs in one folder."""

import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from geofm_lib.paper import blind, studies
from geofm_lib.runs import results
from geofm_lib.runs.run import Run

LIMIT_S = 1500.0  # a command that takes longer is given up
Made = tuple[float, str]  # a claim's number, and what it consists of in words


@dataclass(frozen=True)
class Place:
    """The folder of runs of one verification."""

    folder: Path

    def command(self, *words: object) -> None:
        """`geofm WORDS`, to its end; RuntimeError with its last line if it ends with another code than 0."""
        process = self.begin(*words)
        try:
            code = process.wait(LIMIT_S)
        except BaseException:  # an interrupt, or the limit: the command saves and ends its ranks
            process.terminate()
            process.wait(60)
            raise
        if code:
            last = (self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise RuntimeError(f"geofm {' '.join(map(str, words))} ended with code {code}: {last}")

    def begin(self, *words: object) -> subprocess.Popen:
        """The same, not waited for; what it says is at the end of `log`."""
        with open(self.log, "a") as log:
            command = [sys.executable, "-m", "geofm_lib", *map(str, words)]
            return subprocess.Popen(command, cwd=results.ROOT, stdout=log, stderr=subprocess.STDOUT)

    def run(self, notebook: str, name: str, **settings: object) -> Run:
        """A notebook's finished run, in the folder `name`; several claims may rest on it."""
        run = Run(self.folder / name)
        if not run.finished:
            self.command(*self.words(notebook, name, **settings))
        run.prove()
        return run

    def words(self, notebook: str, name: str, **settings: object) -> list[object]:
        """`run NOTEBOOK -p ...` for it."""
        asked = settings | {"run_dir": self.folder / name}
        return ["run", notebook, *(word for each in asked.items() for word in ("-p", *each))]

    @property
    def log(self) -> Path:
        """What all commands said."""
        return self.folder / "log.txt"

    @cached_property
    def findings(self) -> dict:
        """The summary of 06's own run, which builds Table I's networks and compares replicas' gradients."""
        self.command("run", "06")
        (run,) = (Run(each) for each in self.folder.glob("findings-*"))
        run.prove()
        return run.summary

    @cached_property
    def unseen(self) -> blind.Pairs:
        """Every published point and its prediction by a fit to the other models, made anew: `geofm study unseen`."""
        found = studies.unseen()
        key, value = ("model", "strategy", "nodes"), ("published_images_per_s", "predicted_images_per_s")
        return {tuple(row[name] for name in key): tuple(row[name] for name in value) for row in found}
