"""One typed settings class per job; its fields are the notebook's parameters.

The same field is a line of the notebook's parameters cell, a papermill `-p` name, a grid column, a key of
`settings.json` and a column of the results table. Adding a setting is adding a field here and the line that uses it.
"""

import ast
import difflib
import hashlib
import json
import os
import textwrap
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from geofm_lib.catalog import datasets, machines, strategies
from geofm_lib.catalog.models import MODELS, grid

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


class PrepareSettings(JobSettings):
    """01_data: images to data shards, index and split."""

    job: ClassVar[str] = "prepare"
    dataset: str = setting(
        "scenes", "built-in 'scenes', the path of a folder, tar or zip, or 'eurosat' (downloads it)", "data"
    )
    images_per_class: int = setting(200, "images drawn of each class (built-in scenes only)", "data", ge=2, le=100_000)
    scene_size: int = setting(96, "pixels a side of a drawn image (built-in scenes only)", "data", ge=16, le=1024)
    channels: int = setting(0, "bands an image must have (0: as many as the first one)", "data", ge=0, le=512)
    short_side: int = setting(
        0, "pixels to which a larger short side is reduced (0: sizes stay)", "data", ge=0, le=16384
    )
    quality: int = setting(0, "write every image again as a JPEG of this quality (0: bytes stay)", "data", ge=0, le=100)
    shard_mib: float = setting(256.0, "MiB after which a data shard is closed", "data", gt=0, le=65536)
    train_ratio: float = setting(
        0.0, "share of each class that is for training (0: that of the data set's card, else half)", "data", ge=0, lt=1
    )
    seed: int = setting(0, "of the drawing and of the split", "data", ge=0)
    ranks: int = setting(1, "preparation is one process; it uses `workers`", WHERE, True, ge=0, le=100_000)
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto | cpu | cuda", WHERE, True)
    workers: int = setting(0, "processes that decode (0: one a core)", WHERE, True, ge=0, le=1024)
    run_dir: str = setting("", "run folder (empty: runs/<a name from the settings>)", WHERE, True)


class _ImageSettings(JobSettings):
    """Fields and checks of the jobs that look at prepared images."""

    @model_validator(mode="after")
    def _model_fits(self):
        if self.model not in MODELS:
            raise ValueError(
                f"model: there is no '{self.model}'{closest(self.model, MODELS)} Known: {', '.join(MODELS)}"
            )
        patch = self.patch()
        if self.image_size % patch:
            below, above = self.image_size // patch * patch, (self.image_size // patch + 1) * patch
            near = f"{below} or {above}" if below else f"{above}"
            raise ValueError(f"image_size: {self.image_size} is not a multiple of the {patch}-pixel patch; use {near}")
        return self

    def patch(self) -> int:
        """Pixels a side of a patch."""
        return getattr(self, "patch_size", 0) or MODELS[self.model].patch_size

    def preparation(self) -> PrepareSettings:
        """The preparation these settings imply when `data` is empty."""
        own = {n: getattr(self, n) for n in ("dataset", "images_per_class", "device") if hasattr(self, n)}
        return PrepareSettings(**own)


class PretrainSettings(_ImageSettings):
    """02_pretrain: masked-autoencoder pretraining on the train side of the split."""

    job: ClassVar[str] = "pretrain"
    dataset: str = setting("scenes", "built-in 'scenes', or the path of a folder, tar or zip of images", "data")
    images_per_class: int = setting(200, "images drawn of each class (built-in scenes only)", "data", ge=2, le=100_000)
    data: str = setting("", "run folder of 01_data (empty: prepare, or reuse, the data set above)", "data")
    image_size: int = setting(64, "pixels a side of what the model sees", "data", ge=8, le=2048)
    crop_scale_min: float = setting(
        0.2, "smallest share of an image's area that a random crop keeps", "data", gt=0, le=1
    )
    model: str = setting("ViT-Femto", "a row of catalog/models.py", "model")
    patch_size: int = setting(0, "pixels a side of a patch (0: the model's own)", "model", ge=0, le=64)
    mask_ratio: float = setting(0.75, "share of the patches that is hidden", "model", gt=0, lt=1)
    norm_pix_loss: bool = setting(True, "the target is each patch normalised by its own mean and spread", "model")
    decoder_width: int = setting(0, "0: the model's own", "model", ge=0)
    decoder_depth: int = setting(0, "blocks (0: the model's own)", "model", ge=0)
    decoder_heads: int = setting(0, "0: the model's own", "model", ge=0)
    epochs: int = setting(40, "passes over the train side", "recipe", ge=1)
    warmup_epochs: float = setting(5.0, "epochs of linear warm-up, then a cosine to zero", "recipe", ge=0)
    global_batch: int = setting(100, "images in one optimiser step, all ranks together", "recipe", ge=1)
    base_learning_rate: float = setting(
        1e-3, "per 256 images of global batch (the paper's lineage: 1.5e-4)", "recipe", gt=0
    )
    weight_decay: float = setting(0.05, "AdamW, on matrices only", "recipe", ge=0)
    clip_grad_norm: float = setting(1.0, "largest gradient norm (0: no clipping)", "recipe", ge=0)
    precision: Literal["fp32", "bf16"] = setting(
        "fp32", "fp32 | bf16 (bf16 compute and reduce, fp32 weights)", "recipe"
    )
    seed: int = setting(0, "of weights, order, crops and masks", "recipe", ge=0)
    strategy: str = setting("FULL_SHARD", "FULL_SHARD, SHARD_GRAD_OP, NO_SHARD, HYBRID_kGPUs or DDP", WHERE, True)
    ranks: int = setting(0, "processes (0: the Slurm tasks, else the GPUs, else 1)", WHERE, True, ge=0, le=100_000)
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto | cpu | cuda", WHERE, True)
    max_batch_per_rank: int = setting(0, "images a rank holds at once (0: all; else it accumulates)", WHERE, True, ge=0)
    activation_checkpointing: bool = setting(False, "recompute activations in the backward pass", WHERE, True)
    compile: bool = setting(False, "torch.compile each block", WHERE, True)
    forward_prefetch: int = setting(1, "blocks gathered ahead in the forward pass", WHERE, True, ge=0, le=8)
    backward_prefetch: int = setting(1, "blocks gathered ahead in the backward pass", WHERE, True, ge=0, le=8)
    workers: int = setting(0, "loader processes a rank (0: none)", WHERE, True, ge=0, le=128)
    checkpoint_every: int = setting(50, "steps", WHERE, True, ge=1)
    keep_checkpoints: int = setting(2, "how many to keep", WHERE, True, ge=1)
    log_every: int = setting(5, "steps", WHERE, True, ge=1)
    run_dir: str = setting("", "run folder (empty: runs/<a name from the settings>)", WHERE, True)

    @model_validator(mode="after")
    def _strategy_exists(self):
        _mesh(self.strategy)
        return self

    def check_ranks(self, ranks: int) -> None:
        _mesh(self.strategy, ranks)
        if self.global_batch % ranks:
            below, above = self.global_batch // ranks * ranks, (self.global_batch // ranks + 1) * ranks
            near = f"{below} or {above}" if below else f"{above}"
            raise ValueError(f"global_batch: {self.global_batch} images cannot be shared by {ranks} ranks; use {near}")

    def accumulation(self, ranks: int) -> int:
        """Micro-batches a rank takes for one step: the fewest equal ones within `max_batch_per_rank`."""
        own = self.global_batch // ranks
        most = self.max_batch_per_rank or own
        return next(parts for parts in range(1, own + 1) if own % parts == 0 and own // parts <= most)

    def decoder(self) -> dict[str, int]:
        """Width, depth and heads of the decoder: given here, or the model row's."""
        row = MODELS[self.model]
        return {n: getattr(self, n) or getattr(row, n) for n in ("decoder_width", "decoder_depth", "decoder_heads")}


class ThroughputSettings(_ImageSettings):
    """03_throughput: steady-state step time, memory and communication of one model, strategy and size."""

    job: ClassVar[str] = "throughput"
    model: str = setting("ViT-Femto", "a row of catalog/models.py", MEASURED)
    workload: Literal["mae", "classify"] = setting("mae", "mae | classify (the paper's all-token benchmark)", MEASURED)
    strategy: str = setting("FULL_SHARD", "FULL_SHARD, SHARD_GRAD_OP, NO_SHARD, HYBRID_kGPUs or DDP", MEASURED)
    ranks: int = setting(0, "processes (0: the Slurm tasks, else the GPUs, else 1)", MEASURED, ge=0, le=100_000)
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto | cpu | cuda", MEASURED)
    batch_per_gpu: int = setting(32, "images a rank takes a step (weak scaling)", MEASURED, ge=1)
    image_size: int = setting(64, "pixels a side", MEASURED, ge=8, le=2048)
    patch_size: int = setting(0, "pixels a side of a patch (0: the model's own)", MEASURED, ge=0, le=64)
    precision: Literal["fp32", "bf16"] = setting(
        "fp32", "fp32 | bf16 (bf16 compute and reduce, fp32 weights)", MEASURED
    )
    activation_checkpointing: bool = setting(False, "recompute activations in the backward pass", MEASURED)
    compile: bool = setting(False, "torch.compile each block", MEASURED)
    forward_prefetch: int = setting(1, "blocks gathered ahead in the forward pass", MEASURED, ge=0, le=8)
    backward_prefetch: int = setting(1, "blocks gathered ahead in the backward pass", MEASURED, ge=0, le=8)
    input: Literal["synthetic", "real"] = setting("synthetic", "synthetic | real (from the data set below)", MEASURED)
    communication: Literal["on", "off"] = setting("on", "on | off (same work, nothing is sent)", MEASURED)
    dataset: str = setting("scenes", "built-in 'scenes', or a path; used when input is real", "data")
    images_per_class: int = setting(200, "images drawn of each class (built-in scenes only)", "data", ge=2, le=100_000)
    data: str = setting("", "run folder of 01_data (empty: prepare, or reuse, the data set above)", "data")
    warmup_steps: int = setting(5, "steps before the steady window", "window", ge=1)
    steps: int = setting(30, "steps of the steady window", "window", ge=2)
    workers: int = setting(0, "loader processes a rank (0: none)", "window", ge=0, le=128)
    seed: int = setting(0, "of weights and images", "window", ge=0)
    profile_steps: int = setting(20, "steps after the window that are profiled (0: none)", "taken apart", ge=0, le=1000)
    compare: bool = setting(
        False, "as many with real, synthetic images and silent ranks (memory of a second model)", "taken apart"
    )
    trace: bool = setting(False, "keep each rank's last profiled step as trace-<rank>.json", "taken apart")
    run_dir: str = setting("", "run folder (empty: runs/<a name from the settings>)", WHERE, True)

    @model_validator(mode="after")
    def _strategy_exists(self):
        _mesh(self.strategy)
        return self

    @model_validator(mode="after")
    def _can_be_compared(self):
        if (self.compare or self.trace) and not self.profile_steps:
            raise ValueError("profile_steps: 0 leaves nothing to compare or to trace; 20 gives a steady median")
        if self.compare and self.communication == "off":
            raise ValueError("compare: it measures silent ranks beside those that talk; leave communication on")
        return self

    def check_ranks(self, ranks: int) -> None:
        _mesh(self.strategy, ranks)


class SimulateSettings(_ImageSettings):
    """What one rank of many would hold and send: a step of the same code, traced on fake ranks without memory."""

    job: ClassVar[str] = "simulate"
    model: str = setting("ViT-3B", "a row of catalog/models.py", MEASURED)
    workload: Literal["mae", "classify"] = setting("mae", "mae | classify (the paper's all-token benchmark)", MEASURED)
    strategy: str = setting("FULL_SHARD", "FULL_SHARD, SHARD_GRAD_OP, NO_SHARD or HYBRID_kGPUs", MEASURED)
    gpus: int = setting(64, "ranks of the simulated job", MEASURED, ge=1, le=16384)
    batch_per_gpu: int = setting(32, "images a rank takes a step", MEASURED, ge=1)
    image_size: int = setting(224, "pixels a side", MEASURED, ge=8, le=2048)
    patch_size: int = setting(0, "pixels a side of a patch (0: the model's own)", MEASURED, ge=0, le=64)
    precision: Literal["fp32", "bf16"] = setting("bf16", "fp32 | bf16", MEASURED)
    activation_checkpointing: bool = setting(True, "recompute activations in the backward pass", MEASURED)
    ranks: int = setting(1, "a simulation is one process", WHERE, True, ge=1, le=1)
    device: Literal["cpu"] = setting("cpu", "a simulation needs no GPU", WHERE, True)
    run_dir: str = setting("", "run folder (empty: runs/<a name from the settings>)", WHERE, True)

    @model_validator(mode="after")
    def _can_be_traced(self):
        row = strategies.lookup(self.strategy)
        strategies.resolve(row, self.gpus)
        if row.ddp:
            raise ValueError("strategy: DDP's buckets are not Python and cannot be traced; simulate NO_SHARD instead")
        return self


class ProbeSettings(_ImageSettings):
    """05_probe: linear probe and nearest neighbours on frozen features."""

    job: ClassVar[str] = "probe"
    dataset: str = setting("scenes", "built-in 'scenes', or the path of a folder, tar or zip of images", "data")
    images_per_class: int = setting(200, "images drawn of each class (built-in scenes only)", "data", ge=2, le=100_000)
    data: str = setting("", "run folder of 01_data (empty: prepare, or reuse, the data set above)", "data")
    encoder: str = setting("", "pretrain run folder, exported folder or 'random' (empty: 02's default run)", "encoder")
    model: str = setting("ViT-Femto", "used by encoder random and by 02's default run", "encoder")
    image_size: int = setting(64, "pixels a side of what the model sees", "encoder", ge=8, le=2048)
    pool: Literal["mean", "cls"] = setting("mean", "mean of the patch tokens | cls (the class token)", "encoder")
    views: int = setting(8, "augmented views kept of a training image (0: new crops every epoch)", "protocol", ge=0)
    epochs: int = setting(90, "of the linear probe", "protocol", ge=1)
    warmup_epochs: float = setting(10.0, "epochs of linear warm-up, then a cosine to zero", "protocol", ge=0)
    batch: int = setting(256, "images", "protocol", ge=2)
    base_learning_rate: float = setting(0.1, "LARS, per 256 images", "protocol", gt=0)
    weight_decay: float = setting(0.0, "LARS", "protocol", ge=0)
    probe_seeds: int = setting(3, "repeats; intervals are over them", "protocol", ge=1, le=100)
    knn_k: int = setting(20, "nearest neighbours that vote", "protocol", ge=1)
    compare_random: bool = setting(True, "probe the same encoder at random initialisation too", "protocol")
    compare_histograms: bool = setting(True, "score colour and gradient histograms too", "protocol")
    seed: int = setting(0, "of crops, heads and the random encoder", "protocol", ge=0)
    ranks: int = setting(0, "processes (0: the Slurm tasks, else the GPUs, else 1)", WHERE, True, ge=0, le=100_000)
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto | cpu | cuda", WHERE, True)
    workers: int = setting(0, "loader processes a rank (0: none)", WHERE, True, ge=0, le=128)
    run_dir: str = setting("", "run folder (empty: runs/<a name from the settings>)", WHERE, True)

    @model_validator(mode="after")
    def _encoder_exists(self):
        if self.encoder in ("", "random"):
            return self
        folder = encoder_folder(self.encoder)
        if not (folder / "model.safetensors").is_file() or not (folder / "config.json").is_file():
            raise ValueError(
                f"encoder: '{self.encoder}' holds no model.safetensors and config.json; give a finished pretrain run "
                "folder, an exported, timm or Hugging Face folder (a pickle like pytorch_model.bin is never loaded: "
                "convert it to safetensors), or 'random'"
            )
        return self

    def pretraining(self) -> PretrainSettings:
        """The pretraining whose encoder is probed when `encoder` is empty: 02's defaults on the same data."""
        same = ("dataset", "images_per_class", "data", "model", "image_size", "ranks", "device")
        return PretrainSettings(**{n: getattr(self, n) for n in same})


class FindingsSettings(_ImageSettings):
    """06_paper: evidence for four findings about the paper's numbers, gathered on a few ranks in about a minute."""

    job: ClassVar[str] = "findings"
    workload: ClassVar[str] = "classify"  # the paper's benchmark
    model: str = setting("ViT-Atto", "the small model: replicas, and start-up in a short step", MEASURED)
    larger_model: str = setting("ViT-Pico", "the larger one: precision, and start-up in a longer step", MEASURED)
    image_size: int = setting(64, "pixels a side", MEASURED, ge=8, le=2048)
    batch_per_gpu: int = setting(2, "images a rank takes a step", MEASURED, ge=1)
    steps: int = setting(5, "timed steps of each precision; steps after which weights are compared", MEASURED, ge=2)
    ranks: int = setting(4, "processes: an even number from 4 on", MEASURED, ge=0, le=100_000)
    device: Literal["auto", "cpu", "cuda"] = setting("cpu", "auto | cpu | cuda", MEASURED)
    seed: int = setting(0, "of weights and images", MEASURED, ge=0)
    run_dir: str = setting("", "run folder (empty: runs/<a name from the settings>)", WHERE, True)

    @model_validator(mode="after")
    def _larger_fits(self):
        if self.larger_model not in MODELS:
            raise ValueError(f"larger_model: there is no '{self.larger_model}'{closest(self.larger_model, MODELS)}")
        grid(self.image_size, MODELS[self.larger_model].patch_size)
        return self

    def check_ranks(self, ranks: int) -> None:
        if ranks < 4 or ranks % 2:
            raise ValueError(
                f"ranks: {ranks} cannot show whether replicas agree, which takes two shard groups of two ranks; use 4 "
                "or another even number above it"
            )


class _ReadingSettings(Settings):
    """Of a notebook that reads finished runs, and starts at most a short job of its own."""

    def runs(self) -> Path:
        """The folder of run folders."""
        return Path(self.runs_dir) if self.runs_dir else runs_root()


PLANNED = "what is planned and simulated"


class ScalingSettings(_ReadingSettings):
    """04_scaling reads finished runs, plans, and simulates; it trains nothing."""

    runs_dir: str = setting("", "folder that holds the run folders (empty: runs/)", "what is read")
    model: str = setting("ViT-3B", "a row of catalog/models.py", PLANNED)
    workload: Literal["mae", "classify"] = setting("mae", "mae | classify (the paper's all-token benchmark)", PLANNED)
    machine: str = setting("frontier", "a row of catalog/machines.py", PLANNED)
    nodes: int = setting(8, "nodes of that machine", PLANNED, ge=1)
    batch_per_gpu: int = setting(32, "images a GPU takes a step", PLANNED, ge=1)
    images: int = setting(990_848, "of the data set, for node-hours (the paper's: 990848)", PLANNED, ge=1)
    epochs: float = setting(100.0, "passes over it, for node-hours", PLANNED, gt=0)
    strategy: str = setting("FULL_SHARD", "what is simulated (not DDP)", PLANNED)

    @model_validator(mode="after")
    def _can_be_planned(self):
        if self.model not in MODELS:
            raise ValueError(f"model: there is no '{self.model}'{closest(self.model, MODELS)}")
        machines.lookup(self.machine)
        self.simulation()
        return self

    def simulation(self) -> SimulateSettings:
        """The simulation of one rank of that job."""
        gpus = self.nodes * machines.lookup(self.machine).devices_per_node
        same = {name: getattr(self, name) for name in ("model", "workload", "strategy", "batch_per_gpu")}
        return SimulateSettings(**same, gpus=gpus)


class PaperSettings(_ReadingSettings):
    """06_paper reads finished runs and the published figures, and starts one short job: the findings."""

    runs_dir: str = setting("", "folder that holds the run folders (empty: runs/)", "what is read")
    ranks: int = setting(4, "processes that gather the evidence: an even number from 4 on", "what is run", ge=0)
    device: Literal["auto", "cpu", "cuda"] = setting("cpu", "where they do: auto | cpu | cuda", "what is run")

    @model_validator(mode="after")
    def _can_be_gathered(self):
        self.findings()
        return self

    def findings(self) -> FindingsSettings:
        """The job that gathers the evidence."""
        return FindingsSettings(ranks=self.ranks, device=self.device)


_OF_JOBS = (PrepareSettings, PretrainSettings, ThroughputSettings, SimulateSettings, ProbeSettings, FindingsSettings)
JOBS = {cls.job: cls for cls in _OF_JOBS}


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


def load(run_dir: str | Path):
    """(settings, resolved) of a run folder, as the worker reads them."""
    stored = json.loads((Path(run_dir) / "settings.json").read_text())
    return JOBS[stored["job"]].model_construct(**stored["asked"]), stored["resolved"]


def _mesh(strategy: str, ranks: int = 0) -> None:
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
