"""What every settings class can do: read a notebook's parameters, check, show and name themselves."""

import ast
import difflib
import hashlib
import json
import os
import textwrap
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from geofm_lib.catalog import datasets, strategies

CELL_MARK = "# Settings of this notebook"  # first line of every parameters cell
INJECTED_MARK = "# Parameters"  # first line of the cell that papermill injects


class SettingsError(ValueError):
    """A setting that cannot be used: one sentence saying what is wrong, where, and the fix."""

    def _render_traceback_(self):  # IPython shows these lines instead of a stack trace
        return [f"{type(self).__name__}: {self}"]


def setting(default, about, group, execution=False, **limits):
    """A field with its help text.

    `execution=True` marks a choice that changes speed and memory, never results: a run may be read, or resumed,
    under another value of it.
    """
    return Field(default, description=about, json_schema_extra={"group": group, "execution": execution}, **limits)


def closest(name, known):
    """`; did you mean 'x'?` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


class Settings(BaseModel):
    """What every notebook's settings can do: read, check, show and name themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
    job: ClassVar[str] = ""  # the worker's job, empty for a notebook that only reads runs

    @field_validator("*", mode="before")
    @classmethod
    def _no_numbers_from_booleans(cls, value, info):
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation in (int, float):
            raise ValueError("a number is needed, not True or False")
        return value

    def __init__(self, **values):
        for name in values:
            if name not in type(self).model_fields:
                raise SettingsError(f"unknown setting '{name}'{closest(name, type(self).model_fields)}")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(_sentence(type(self), error)) from None

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]):
        """Settings from a notebook's globals: the names assigned in its parameters cell and in papermill's.

        Other variables of the notebook are never looked at, so running the cell again is never an error.
        Raises SettingsError for a name that is no setting, or a value that cannot be used.
        """
        names = _assigned_names(namespace.get("In", []))
        if names is None:  # a plain script: take what is there
            names = [name for name in cls.model_fields if name in namespace]
        return cls(**{name: namespace[name] for name in names if name in namespace})

    @classmethod
    def parameters_cell(cls) -> str:
        """The exact source of the notebook's parameters cell: every field once, grouped, with its help."""
        lines, group = [f"{CELL_MARK} ({cls.__name__}); papermill's -p name value replaces them"], None
        for name, field in cls.model_fields.items():
            if field.json_schema_extra["group"] != group:
                group = field.json_schema_extra["group"]
                lines.append(f"# {group}")
            kind = field.annotation.__name__ if get_origin(field.annotation) is None else "str"
            default = json.dumps(field.default) if isinstance(field.default, str) else repr(field.default)
            lines.append(f"{name}: {kind} = {default}  # {field.description}")
        return "\n".join(lines)

    @classmethod
    def help(cls) -> str:
        """Every setting with its default and meaning, for a terminal."""
        rows = [f"  {n} = {f.default!r}\n      {f.description}" for n, f in cls.model_fields.items()]
        return f"{cls.__name__}\n" + "\n".join(rows)

    def table(self) -> list[tuple[str, Any, str]]:
        """(setting, value, meaning) for a report."""
        return [(n, getattr(self, n), f.description) for n, f in type(self).model_fields.items()]

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><td>{n}</td><td><b>{v}</b></td><td>{a}</td></tr>" for n, v, a in self.table())
        head = "<tr><th>setting</th><th>value</th><th>meaning</th></tr>"
        return f"<details><summary>Settings</summary><table>{head}{cells}</table></details>"

    def asked(self) -> dict[str, Any]:
        """Plain values, as they go into `settings.json`."""
        return self.model_dump(mode="json")

    def results_only(self) -> dict[str, Any]:
        """The settings that can change a result; two runs that agree on these are the same run."""
        fields = type(self).model_fields
        return {n: v for n, v in self.asked().items() if not fields[n].json_schema_extra["execution"]}


class JobSettings(Settings):
    """What every job has: where it writes, its seed, its ranks and device."""

    def name(self) -> str:
        """The run folder's own name when `run_dir` is empty: job, what it is about, and a hash of the settings."""
        encoder = getattr(self, "encoder", "")
        subject = (
            _slug(encoder) if encoder not in ("", "random") else getattr(self, "model", None) or _slug(self.dataset)
        )
        about = [subject, getattr(self, "strategy", None)]
        digest = hashlib.sha256(json.dumps(self.results_only(), sort_keys=True).encode()).hexdigest()[:6]
        return "-".join([self.job, *(part for part in about if part), digest])

    def folder(self) -> Path:
        """Where the run is written."""
        return Path(self.run_dir) if self.run_dir else runs_root() / self.name()

    def check_ranks(self, ranks: int) -> None:
        """Refuse a number of ranks on which these settings cannot run."""

    @model_validator(mode="after")
    def _usable(self):
        data = getattr(self, "data", "")
        if "dataset" not in type(self).model_fields:
            pass  # a simulation reads no images
        elif data:
            if not (Path(data) / "index.csv").is_file():
                raise ValueError(
                    f"data: '{data}' is not a run folder of 01_data (it has no index.csv); leave data empty"
                )
        else:
            datasets.find(self.dataset)
        _writable(self.folder())
        if self.ranks:
            self.check_ranks(self.ranks)
        return self


MEASURED = "what is measured"
WHERE = "where and how it runs (changes speed and memory, never the result)"


def runs_root() -> Path:
    """Where run folders go: GEOFM_RUNS, else `runs/` of this folder (of the one above, in `notebooks/`)."""
    if "GEOFM_RUNS" in os.environ:
        return Path(os.environ["GEOFM_RUNS"])
    here = Path.cwd()
    # JupyterLab starts a kernel in the notebook's folder, papermill in the caller's; both mean the same runs.
    return (here.parent if here.name == "notebooks" and (here.parent / "geofm_lib").is_dir() else here) / "runs"


def encoder_folder(encoder: str) -> Path:
    """The folder with model.safetensors and config.json: a pretrain run's `encoder/`, or the folder itself."""
    inside = Path(encoder) / "encoder"
    return inside if inside.is_dir() else Path(encoder)


def check_strategy(strategy: str, ranks: int = 0) -> None:
    """Refuse a strategy that does not exist, or not on so many ranks."""
    try:
        row = strategies.lookup(strategy)
        if ranks:
            strategies.resolve(row, ranks)
    except ValueError as error:
        raise ValueError(f"strategy: {error}") from None


def _slug(dataset: str) -> str:
    stem = Path(dataset).resolve().name.split(".")[0]
    return "".join(c if c.isalnum() else "_" for c in stem) or "data"


def _assigned_names(cells: list[str]) -> list[str] | None:
    """Names assigned in the last parameters cell that ran and in papermill's injected cell after it."""
    starts = [i for i, cell in enumerate(cells) if cell.lstrip().startswith(CELL_MARK)]
    injected = [i for i, cell in enumerate(cells) if cell.lstrip().splitlines()[:1] == [INJECTED_MARK]]
    if not starts and not injected:
        return None
    chosen = starts[-1:] + [i for i in injected if not starts or i > starts[-1]]
    names: dict[str, None] = {}
    for index in chosen:
        for node in ast.walk(ast.parse(textwrap.dedent(cells[index]))):
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            names.update({t.id: None for t in targets if isinstance(t, ast.Name)})
    return list(names)


def _sentence(cls, error: ValidationError) -> str:
    """All faults of a settings object, each in one sentence."""
    sentences = []
    for fault in error.errors():
        message = fault["msg"].removeprefix("Value error, ")
        name = fault["loc"][0] if fault["loc"] else None
        if name is None:
            sentences.append(message)
            continue
        value, allowed = fault["input"], get_args(cls.model_fields[name].annotation)
        if fault["type"] == "literal_error":
            message = f"must be one of {', '.join(allowed)}{closest(value, allowed)}"
        sentences.append(f"{name}: {value!r} cannot be used: {message[0].lower()}{message[1:]}")
    return "; ".join(sentences)


def _writable(folder: Path) -> None:
    """Refuse a run folder that cannot be made, before anything is made."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ValueError(f"run_dir: '{folder}' cannot be made because '{nearest}' is a file; choose another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(
            f"run_dir: '{folder}' cannot be made because '{nearest}' is not writable; choose another folder"
        )
