"""What every settings class can do: read a notebook's parameters, check, show and name itself.

Settings are pure values: no constructor looks at a file. What the file system must have for them is asked by
`runs.check` when a run is launched or queued.
"""

import ast
import hashlib
import json
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from geofm_lib.catalog import strategies
from geofm_lib.catalog.suggest import did_you_mean
from geofm_lib.settings.masking import mask, masked
from geofm_lib.settings.places import PATHS, expanded, one_spelling, runs_root

CELL_MARK = "# Settings of this notebook"  # first line of every parameters cell
LONGEST_PATH = 4096  # characters, of any value
MOST_TEXT = 16  # and so many times as long is a list of paths at most
OVERRULED = ("dataset", "images_per_class")  # settings that say nothing where `data` names prepared images
INJECTED_MARK = "# Parameters"  # first line of the cell that papermill injects


class SettingsError(ValueError):
    """A setting that cannot be used: one sentence saying what is wrong, where, and the fix."""

    def __init__(self, sentence: str):
        super().__init__(mask(shortened(sentence, 2000)))

    def _render_traceback_(self):  # IPython shows these lines instead of a stack trace
        return [f"{type(self).__name__}: {self}"]


def setting(default: Any, about: str, group: str, execution: bool = False, later: bool = False, **limits: Any) -> Any:
    """A field with its help text; `limits` are pydantic's (ge, le, gt, lt).

    `execution=True` marks a choice that changes speed and memory, never results: a run may be read, or resumed,
    under another value of it. `later=True` marks one that is younger than the first runs: its default is left out of
    names.
    """
    marks: Any = {"group": group, "execution": execution, "later": later}
    return Field(default, description=about, json_schema_extra=marks, **limits)


class Settings(BaseModel):
    """What every notebook's settings can do: read, check, show and name themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
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
                known = type(self).model_fields
                fix = did_you_mean(name, known) or f"; the settings here are {', '.join(known)}"
                raise SettingsError(f"unknown setting '{shortened(name)}'{fix}")
        for name, value in values.items():
            if isinstance(value, str) and max(len(value) / MOST_TEXT, *map(len, value.split(","))) > LONGEST_PATH:
                raise SettingsError(
                    f"{name}: a value of {len(value):,} characters cannot be used: {shortened(value)!r}"
                )
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(_sentence(type(self), error)) from None

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> Self:
        """Settings from a notebook's globals: the names assigned in its parameters cell and in papermill's.

        Other variables of the notebook are never looked at, so running the cell again is never an error. What the
        parameters cell leaves at its default is not given to the class: a branch takes it from the run it begins in.
        Raises SettingsError for a name that is no setting, or a value that cannot be used.
        """
        names = _assigned_names(namespace.get("In", []))
        if names is None:  # a plain script: take what is there
            names = {name: False for name in cls.model_fields}
        given = {
            n: namespace[n] for n, typed in names.items() if n in namespace and (typed or cls._changed(n, namespace))
        }
        return cls(**given)

    @classmethod
    def _changed(cls, name: str, namespace: dict[str, Any]) -> bool:
        """Is this variable no setting, or not a setting's default?"""
        field = cls.model_fields.get(name)
        return field is None or (type(field.default), field.default) != (type(namespace[name]), namespace[name])

    @classmethod
    def parameters_cell(cls) -> str:
        """The exact source of the notebook's parameters cell: every field once, grouped, with its help."""
        lines, group = [f"{CELL_MARK} ({cls.__name__}); papermill's -p name value replaces them"], None
        for name, field in cls.model_fields.items():
            if _about(field)["group"] != group:
                group = _about(field)["group"]
                lines.append(f"# {group}")
            kind = getattr(field.annotation, "__name__", "str") if get_origin(field.annotation) is None else "str"
            default = json.dumps(field.default) if isinstance(field.default, str) else repr(field.default)
            lines.append(f"{name}: {kind} = {default}  # {field.description}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        asked = self.asked()
        asked |= dict.fromkeys(OVERRULED, "not used: data is given") if asked.get("data") else {}
        rows = [(n, str(asked[n]), field.description or "") for n, field in type(self).model_fields.items()]
        cells = "".join("<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in rows)
        head = "<tr><th>setting</th><th>value</th><th>meaning</th></tr>"
        return f"<details><summary>Settings</summary><table>{head}{cells}</table></details>"

    def asked(self) -> dict[str, Any]:
        """Plain values, as they go into `settings.json` and names: passwords and tokens are masked (`masking`)."""
        return masked(self.model_dump(mode="json"))

    def results_only(self) -> dict[str, Any]:
        """The settings that can change a result, paths in one spelling; runs that agree on these are the same run."""
        fields = type(self).model_fields
        own = {n: v for n, v in self.asked().items() if not _about(fields[n])["execution"]}
        return own | {n: one_spelling(own[n]) for n in PATHS if own.get(n)}


def _about(field: FieldInfo) -> dict[str, Any]:
    """The group of a field, and whether it is `execution`."""
    assert isinstance(field.json_schema_extra, dict)
    return field.json_schema_extra


class Resolved(BaseModel):
    """What a job's settings came to when it was launched, as `resolved` in settings.json.

    data, encoder, init, probe_data: the folders that are read. data_fingerprint: of the index and split in `data`.
    init_digest: of the files in `init`. source: the signature of the files that a preparation was made of. branch: run
    folder@step. ancestry: of a branch, the runs that it comes from, oldest first: `run` (its folder), `step`,
    `checkpoint` (its folder, '' for step 0), `digest` (of its manifest) and `changed` ({setting: [there, here]}).
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    ranks: int = 1
    data: str = ""
    data_fingerprint: str = ""
    encoder: str = ""
    init: str = ""
    init_digest: str = ""
    branch: str = ""
    ancestry: list[dict[str, Any]] = []
    probe_data: str = ""
    source: str = ""

    @property
    def parent(self) -> dict[str, Any]:
        """Of a branch, the run that it begins in, as in `ancestry`; {} of other runs."""
        return self.ancestry[-1] if self.ancestry else {}


class JobSettings(Settings):
    """What every job has: where it writes, its ranks and device."""

    if TYPE_CHECKING:  # each class declares its own, since a field's place is its line in the notebook's cell
        run_dir: str
        ranks: int
        device: str

    def name(self) -> str:
        """The run folder's own name when `run_dir` is empty: job, what it is about, and a hash of the settings."""
        encoder, model, dataset = (getattr(self, field, "") for field in ("encoder", "model", "dataset"))
        subject = _slug(encoder) if encoder not in ("", "random") else model or _slug(dataset)
        about = [subject, getattr(self, "strategy", "")]
        fields = type(self).model_fields
        own = self.results_only().items()
        named = {n: value for n, value in own if not (_about(fields[n])["later"] and value == fields[n].default)}
        digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:6]
        return "-".join([self.job, *(part for part in about if part), digest])

    def folder(self) -> Path:
        """Where the run is written."""
        return expanded(self.run_dir) if self.run_dir else runs_root() / self.name()

    def check_ranks(self, ranks: int) -> None:
        """Refuse a number of ranks on which these settings cannot run; 0 is one that is not known yet."""

    @model_validator(mode="after")
    def _usable(self):
        self.check_ranks(self.ranks)
        return self


class ReadingSettings(Settings):
    """Of a notebook that reads finished runs, and starts at most a short job of its own."""

    if TYPE_CHECKING:
        runs_dir: str

    def runs(self) -> Path:
        """The folder of run folders."""
        return expanded(self.runs_dir) if self.runs_dir else runs_root()


Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
Attention = Literal["auto", "fused", "plain"]
Linear = Literal["auto", "matmul", "convolution"]
Workload = Literal["mae", "classify"]
MEASURED = "what is measured"
REDUCE = "with bf16, gradients are reduced in fp32 | bf16 (the paper's)"
WHERE = "where and how it runs (changes speed and memory, never the result)"

# Fields that several classes have. A class names each at its own place, which is its line in the notebook's cell.
DATASET = setting("scenes", "built-in 'scenes', or the path of a folder, tar or zip of images", "data")
IMAGES_PER_CLASS = setting(200, "images drawn of each class (built-in scenes only)", "data", ge=2, le=100_000)
DATA = setting("", "run folder of 01_data, several with commas (empty: prepare the data set above)", "data")
RANKS = setting(0, "processes (0: the Slurm tasks, else the GPUs, else 1)", WHERE, True, ge=0, le=100_000)
DEVICE = setting("auto", "auto | cpu | cuda", WHERE, True)
WORKERS = setting(0, "loader processes a rank (0: none)", WHERE, True, ge=0, le=128)
ATTENTION = "how attention is computed: auto (the faster, measured here) | fused | plain"
LINEAR = "how linear layers are: auto (the faster, measured here) | matmul | convolution"
RUN_DIR = setting("", "run folder (empty: runs/<a name from the settings>)", WHERE, True)


@contextmanager
def naming(field: str) -> Iterator[None]:
    """Put the setting's name before the sentence of a ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def check_strategy(strategy: str, ranks: int = 0) -> None:
    """Refuse a strategy that does not exist, or not on so many ranks."""
    with naming("strategy"):
        row = strategies.lookup(strategy)
        if ranks:
            strategies.resolve(row, ranks)


def nearest_multiples(size: int, step: int) -> str:
    """The multiples of `step` around `size`, in words: ``nearest_multiples(101, 2)`` is "100 or 102"."""
    below = size // step * step
    return f"{below} or {below + step}" if below else f"{step}"


def _slug(dataset: str) -> str:
    if "," in dataset:
        return f"{dataset.count(',') + 1}_sets"
    stem = Path(os.path.realpath(expanded(mask(one_spelling(dataset))))).name.split(".")[0]
    return "".join(c if c.isalnum() else "_" for c in stem) or "data"


def _assigned_names(cells: list[str]) -> dict[str, bool] | None:
    """Names assigned in the last parameters cell that ran and in papermill's after it, and whether in the latter."""
    starts = [i for i, cell in enumerate(cells) if cell.lstrip().startswith(CELL_MARK)]
    injected = [i for i, cell in enumerate(cells) if cell.lstrip().splitlines()[:1] == [INJECTED_MARK]]
    if not starts and not injected:
        return None
    chosen = starts[-1:] + [i for i in injected if not starts or i > starts[-1]]
    names: dict[str, bool] = {}
    for index in chosen:
        for node in ast.walk(ast.parse(textwrap.dedent(cells[index]))):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names.update({t.id: index in injected for t in targets if isinstance(t, ast.Name)})
    return names


def _sentence(cls, error: ValidationError) -> str:
    """All faults of a settings object, each in one sentence."""
    sentences = []
    for fault in error.errors():
        message = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:
            sentences.append(message)
            continue
        name, value = fault["loc"][0], fault["input"]
        allowed = get_args(cls.model_fields[name].annotation)
        if fault["type"] == "literal_error":
            message = f"must be one of {', '.join(allowed)}{did_you_mean(value, allowed)}"
        sentences.append(f"{name}: {shortened(value)!r} cannot be used: {message[0].lower()}{message[1:]}")
    return "; ".join(sentences)


def shortened(value: Any, most: int = 200) -> Any:
    """A text as a sentence can hold it: of a longer one the middle is left out."""
    long = isinstance(value, str) and len(value) > most
    return f"{value[: most * 2 // 3]} ... {value[-most // 3 :]}" if long else value
