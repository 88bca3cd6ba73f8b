"""A grid: a CSV file in which a row is a run. Read, and checked before anything is queued.

    # lines that begin with # are for the reader
    name,notebook,dataset,data,strategy,nodes,tasks_per_node,walltime,after
    images,01_data,scenes,,,1,1,0:20:00,
    full,02_pretrain,,@images,FULL_SHARD,2,8,2:00:00,
    half,02_pretrain,,@images,HYBRID_2GPUs,2,8,2:00:00,full

The columns below are the job's; every other column is a setting of the row's notebook, an empty cell its default.
`@images` is the run folder of the row called images and makes a row wait for it, `@full@1200` (branch) its step 1200;
`after` names rows to wait for without using them. Settings are checked by the notebook's own class, memory by
`planning/memory` against the machine.
"""

import csv
import io
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geofm_lib.advice import memory
from geofm_lib.catalog.machines import Machine
from geofm_lib.catalog.suggest import did_you_mean, other_separator
from geofm_lib.runs.check import check, named, settings_class
from geofm_lib.runs.run import Run
from geofm_lib.settings import JOBS, JobSettings
from geofm_lib.settings.base import shortened
from geofm_lib.settings.branch import OWN
from geofm_lib.settings.places import PATHS, unset

COLUMNS = ("name", "notebook", "nodes", "tasks_per_node", "walltime", "after")
BEYOND = "(none)"  # where cells stand that have no column
TIME = re.compile(r"(?:(?:(?P<d>\d+)-)?(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d))|(?P<minutes>\d+)")
# Setting that may be @row -> the job that row must be.
REFERS_TO = {"data": "prepare", "encoder": "pretrain", "init": "pretrain", "branch": "pretrain"}


class Fault(ValueError):
    """Why a row cannot be queued: its number in the file, as an editor counts, the column and the reason.

    `needs` is the name of the row that is missing above, where that is the reason; `follows` the row of that name which
    was refused itself (0: there is none).
    """

    def __init__(self, column: str, reason: str, row: int = 0, needs: str = ""):
        self.column, self.reason, self.row, self.needs, self.follows = column, reason, row, needs, 0

    def __str__(self) -> str:
        return f"row {self.row}, column {self.column}: {self.reason}"


def told(faults: list[Fault]) -> list[str]:
    """The faults as sentences: one for all rows of the same reason, and one for those that only follow from others."""
    alike: dict[tuple[str, str], list[int]] = {}
    for fault in faults:
        if not fault.follows:
            alike.setdefault((fault.column, fault.reason), []).append(fault.row)
    found = [f"{_listed(rows)}, column {column}: {reason}" for (column, reason), rows in alike.items()]
    if following := [fault.row for fault in faults if fault.follows]:
        need = "needs a row that was" if len(following) == 1 else "need rows that were"
        found.append(f"{_listed(following)} {need} refused above")
    return found


def _listed(rows: list[int]) -> str:
    """row 3, or rows 83, 94-97."""
    spans: list[list[int]] = []
    for row in rows:
        if spans and row == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], row]
        else:
            spans.append([row])
    return f"row{'s' * (len(rows) > 1)} {', '.join('-'.join(map(str, span)) for span in spans)}"


@dataclass(frozen=True)
class Row:
    """A run to be queued."""

    line: int  # of the file, as an editor counts
    name: str
    notebook: Path
    settings: JobSettings
    parameters: dict[str, str]  # what the notebook is given
    folder: Path
    nodes: int
    tasks_per_node: int
    walltime: str
    after: tuple[str, ...] = ()

    @property
    def ranks(self) -> int:
        """How many ranks the run will have."""
        return self.settings.ranks or self.nodes * self.tasks_per_node

    @property
    def words(self) -> list[str]:
        """The notebook's parameters as words of `geofm run`."""
        return [word for name, value in self.parameters.items() for word in ("-p", name, value)]

    @property
    def finished(self) -> bool:
        """Its run needs nothing more."""
        return Run(self.folder).finished


def read(file: str | Path, machine: Machine | None = None) -> tuple[list[Row], list[Fault]]:
    """(rows that can be queued, faults of the others). A row that waits for a refused one is refused too.

    The memory, nodes and time limits of `machine` are kept, if it is known. ValueError when the file is no grid at all.
    """
    rows: dict[str, Row] = {}
    faults: list[Fault] = []
    taken: dict[Path, int] = {}
    refused: dict[str, int] = {}
    for line, cells in _lines(Path(file)):
        name = cells.get("name") or f"row{line}"
        try:
            row = _row(line, name, cells, rows, machine)
            if name in rows:
                raise Fault("name", f"row {rows[name].line} is called '{name}' too")
            if row.folder in taken:
                raise Fault("name", f"row {taken[row.folder]} is the same run: every setting is equal")
        except Fault as fault:
            fault.row, fault.follows = line, refused.get(fault.needs, 0)
            refused.setdefault(name, line)
            faults.append(fault)
        else:
            rows[name], taken[row.folder] = row, line
    return list(rows.values()), faults


def texts(file: Path) -> list[dict[str, str]]:
    """The cells of each row as they are written; what they name needs not be there."""
    return [cells for _, cells in _lines(file)]


def _lines(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the line, its cells by column), without comments, empty lines and empty cells."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets put a mark before the first name
        found = list(enumerate(csv.reader(io.StringIO(text, newline="")), start=1))
    except OSError as error:
        raise ValueError(f"the grid '{file}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"'{file}' is no grid: it is no text in UTF-8; save it as 'CSV UTF-8', with commas") from None
    except csv.Error as error:
        raise ValueError(f"'{file}' is no grid: it cannot be read as CSV ({error})") from None
    numbered = [(n, [cell.strip() for cell in cells]) for n, cells in found if any(map(str.strip, cells))]
    numbered = [(n, cells) for n, cells in numbered if not cells[0].startswith("#")]
    if not numbered:
        raise ValueError(f"the grid '{file}' is empty; its first line names the columns, every other one is a run")
    (_, header), *body = numbered
    _check_header(file, header)
    if not body:
        raise ValueError(f"the grid '{file}' names its columns and has no row below them; add one for each run")
    for line, cells in body:
        named_cells = {column: cell for column, cell in zip(header, cells, strict=False) if cell}
        beyond = ",".join(cells[len(header) :])
        yield line, named_cells | ({BEYOND: beyond} if beyond.strip(",") else {})


def _check_header(file: Path, header: list[str]) -> None:
    """ValueError unless these are the columns of a grid."""
    if "notebook" not in header:
        if other := other_separator(",".join(header), "notebook"):
            raise ValueError(
                f"'{file}' has {other} between its columns, and a grid has commas; save it as CSV with commas"
            )
        raise ValueError(f"'{file}' is no grid: its first line must name the columns, 'notebook' among them")
    if twice := sorted({column for column in header if column and header.count(column) > 1}):
        raise ValueError(f"'{file}' names the column {twice[0]} twice; keep one")
    known = {*COLUMNS, *(field for each in JOBS.values() for field in each.model_fields)}
    if strange := [column for column in header if column and column not in known]:
        near = did_you_mean(strange[0], known) or "; a column is one of the job's or a setting of a notebook"
        raise ValueError(f"'{file}' has the column '{shortened(strange[0])}', which no notebook knows{near}")


def _row(line: int, name: str, cells: dict[str, str], rows: dict[str, Row], machine: Machine | None) -> Row:
    if BEYOND in cells:
        raise Fault(BEYOND, f"'{cells[BEYOND]}' stands beyond the last column; count the commas")
    with _speaking_of("notebook"):
        notebook = named(cells.get("notebook", ""))
    job = settings_class(notebook)
    if job is None or not issubclass(job, JobSettings):
        raise Fault("notebook", f"{cells.get('notebook', '')} starts no run; it reads finished ones")
    given = {column: cell for column, cell in cells.items() if column not in COLUMNS}
    for column in (column for column in given if column in PATHS):
        if gone := unset(given[column]):
            raise Fault(column, f"{gone.strip(' ()')} where this was started, and the path has it; set it there")
    used = {column: found for column, cell in given.items() if (found := _referred(column, cell, rows))}
    nodes = _count("nodes", cells, 1, machine.nodes if machine else None)
    per_node = machine.devices_per_node if machine else None
    tasks = _count("tasks_per_node", cells, per_node or 1, per_node)
    needed = [
        *(_known("after", each, rows) for each in cells.get("after", "").split()),
        *itertools.chain(*used.values()),
    ]
    after = tuple(dict.fromkeys(each.name for each in needed))
    parameters = {column: _folders(cell, rows) if column in used else cell for column, cell in given.items()}
    if job.job == "throughput":
        parameters.setdefault("ranks", str(nodes * tasks))  # it is what is measured: another number is another run
    to_come = {column for column, each in used.items() if not all(r.finished for r in each)}
    settings = _settings(job, parameters, to_come, used)
    folder, walltime = settings.folder(), cells.get("walltime", "1:00:00")
    row = Row(line, name, notebook, settings, parameters, folder, nodes, tasks, walltime, after)
    if row.ranks > nodes * tasks:
        raise Fault("ranks", f"{row.ranks} ranks do not fit {nodes} nodes with {tasks} tasks each")
    with _speaking_of("ranks"):
        settings.check_ranks(row.ranks)
    with _speaking_of("walltime"):
        _check_walltime(walltime, nodes, machine)
    with _speaking_of("strategy"):
        _check_memory(settings, row.ranks, machine)
    return row


@contextmanager
def _speaking_of(column: str) -> Iterator[None]:
    """Turn a sentence into a fault of the column it names (as those of settings do), else of this one."""
    try:
        yield
    except Fault:
        raise
    except ValueError as error:
        found = re.match(r"unknown setting '(\w+)'|(\w+): ", str(error))
        column = (found.group(1) or found.group(2)) if found else column
        raise Fault(column, str(error).removeprefix(f"{column}: ")) from None


def _known(column: str, name: str, rows: dict[str, Row]) -> Row:
    if name not in rows:
        raise Fault(column, f"there is no good row '{name}' above this one{did_you_mean(name, rows)}", needs=name)
    return rows[name]


def _referred(column: str, cell: str, rows: dict[str, Row]) -> list[Row]:
    """The rows that @name, or a list of them with commas, means; each must be of the job that this setting takes."""
    found = []
    for part in filter(lambda part: part.startswith("@"), map(str.strip, cell.split(","))):
        row, job = _known(column, part[1:].partition("@")[0], rows), REFERS_TO.get(column)
        if row.settings.job != job:
            takes = f"it takes a {job} row" if job else f"only {', '.join(REFERS_TO)} take the run of another row"
            raise Fault(column, f"'{part}' is a {row.settings.job} row; {takes}")
        found.append(row)
    return found


def _folders(cell: str, rows: dict[str, Row]) -> str:
    """A cell with the run folders of the rows that it names."""
    parts = map(str.strip, cell.split(","))
    split = (part[1:].partition("@") if part.startswith("@") else ("", part, "") for part in parts)
    return ",".join(f"{rows[row].folder if row else ''}{mark}{rest}" for row, mark, rest in split)


def _settings(
    job: type[JobSettings], parameters: dict[str, str], to_come: set[str], used: dict[str, list[Row]]
) -> JobSettings:
    """Checked as the notebook will check them; what names a run that is still to come is taken on trust."""
    values: dict[str, Any] = {name: value for name, value in parameters.items() if name not in to_come}
    if "branch" in to_come:  # what the run there will have been asked stands in its row
        there = used["branch"][0].settings.asked()
        with _speaking_of("notebook"):
            begun = job(**({name: value for name, value in there.items() if name not in OWN} | values))
        return begun.model_copy(update={column: parameters[column] for column in to_come})
    if "encoder" in to_come:
        values["encoder"] = "random"  # stands for one that exists; the data set of data to come need not be here again
    with _speaking_of("notebook"):
        checked = job(**values)
        check(checked, images="data" not in to_come)
    return checked.model_copy(update={column: parameters[column] for column in to_come})


def _count(column: str, cells: dict[str, str], default: int, most: int | None) -> int:
    """A number of nodes, or of tasks a node; `most` is the machine's."""
    cell = cells.get(column, str(default))
    if not cell.isdecimal() or int(cell) < 1:
        raise Fault(column, f"'{cell}' is no whole number from 1 on")
    if most and int(cell) > most:
        raise Fault(column, f"{cell} are more than the machine's {most}")
    return int(cell)


def seconds(walltime: str) -> int:
    """Slurm's time: minutes, hours:minutes:seconds or days-hours:minutes:seconds.

    Slurm's other forms are refused: it takes 2:00 for two minutes and 1-12 for a day and a half.

    >>> seconds("30"), seconds("2:00:00"), seconds("1-00:00:00")
    (1800, 7200, 86400)
    """
    found = TIME.fullmatch(walltime)
    if not found:
        raise ValueError(f"'{walltime}' is no clear time; write hours:minutes:seconds, such as 2:00:00")
    days, hours, minutes, rest = (int(found[part] or 0) for part in "dhms")
    return ((days * 24 + hours) * 60 + minutes + int(found["minutes"] or 0)) * 60 + rest


def _check_walltime(walltime: str, nodes: int, machine: Machine | None) -> None:
    """Refuse a time that cannot be read, or that the machine gives to no job of so many nodes."""
    asked = seconds(walltime)
    if asked < 60:
        raise ValueError(f"'{walltime}' is less than a minute, Slurm's smallest time limit")
    if machine and machine.hours:
        hours = next(limit for most, limit in machine.hours.items() if nodes <= most)
        if asked > hours * 3600:
            longer = "a pretraining that needs longer goes on by itself in the next job"
            raise ValueError(f"{machine.name} gives {nodes} nodes {hours:g} h at most; {longer}")


def _check_memory(settings: JobSettings, ranks: int, machine: Machine | None) -> None:
    """Refuse a model that cannot fit its strategy, with the prediction and what would fit."""
    if machine is None or machine.memory_gib is None or not isinstance(settings, memory.KNOWN):
        return
    need, limit = memory.peak_gib(settings, ranks), machine.memory_gib
    if need > limit:
        fitting = memory.strategies_that_fit(settings, ranks, limit).items()
        advice = f"on {ranks} ranks these fit: {', '.join(f'{name} ({held:.1f})' for name, held in fitting)}"
        if not fitting:
            more = f"more than {ranks // machine.devices_per_node} nodes, a smaller batch or activation_checkpointing"
            advice = f"no strategy fits on {ranks} ranks: take {more}"
        what = f"{settings.model} under {settings.strategy}"
        raise ValueError(f"{what} needs {need:.1f} GiB a device of {limit:.1f}; {advice}")
