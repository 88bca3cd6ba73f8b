"""A table (CSV) of measured or published speeds as text: its columns, what is assumed of a row, and what it refuses.

A row is a point. COLUMNS says what a column means, and OTHERWISE by which other names it is known: those of timm's
results folder are read as they are.
"""

import csv
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from geofm_lib.catalog.metrics import counted
from geofm_lib.catalog.suggest import did_you_mean, other_separator

COLUMNS = {
    "model": "a row of catalog/models.py, or a ViT of timm's",
    "images_per_s": "of all ranks",
    "batch_per_gpu": "images a rank takes a step",
    "nodes": "nodes of the machine",
    "ranks": "ranks of all nodes together",
    "strategy": "a sharding strategy",
    "image_size": "pixels a side",
    "patch_size": "pixels a side; else the model's own",
    "precision": "bf16 (also fp16 and amp) | fp32",
    "workload": "classify | mae",
    "activation_checkpointing": "yes | no",
    "fused_attention": "yes | no (before torch 2)",
}
USUAL = {
    "nodes": "1", "strategy": "NO_SHARD", "precision": "bf16", "workload": "classify", "activation_checkpointing": "no",
    "fused_attention": "yes",
}  # fmt: skip
"""What is assumed of a row that does not say it."""
OTHERWISE = {
    "train_samples_per_sec": "images_per_s", "samples_per_s": "images_per_s", "train_batch_size": "batch_per_gpu",
    "train_img_size": "image_size", "img_size": "image_size", "gpus": "ranks", "samples_per_sec": "images_per_s",
    "images_per_sec": "images_per_s", "images/s": "images_per_s",
}  # fmt: skip
KNOWN = (*COLUMNS, *OTHERWISE)
NEARLY = 0.78  # as like a known name as this, a column is that name misspelt
NO_NAMES = {"batch_size": "batch_per_gpu", "batch": "batch_per_gpu", "global_batch": "batch_per_gpu"}  # of whom?
LABELS = ("name", "machine", "where")
NEEDED = ("model", "images_per_s", "batch_per_gpu")


def read(file: Path, given: dict[str, str]) -> list[dict[str, str]]:
    """The rows as text under their names in COLUMNS, with ``given`` where a row says nothing, and ``where``.

    Lines that begin with # are for the reader. ValueError, one sentence, for what is no table of points.
    """
    header, body = _lines(file)
    names = [OTHERWISE.get(name.lower(), name.lower() if name.lower() in COLUMNS else name) for name in header]
    for name in (name for name in names if name not in COLUMNS and not name.startswith("infer_")):
        near = (
            [NO_NAMES[name.lower()]] if name.lower() in NO_NAMES else get_close_matches(name.lower(), KNOWN, 1, NEARLY)
        )
        if near and OTHERWISE.get(near[0], near[0]) not in names:
            raise ValueError(f"'{file}' has a column '{name}'; did you mean {near[0]} ({COLUMNS.get(near[0], '')})?")
    if missing := [name for name in NEEDED if name not in {*names, *given}]:
        if other := other_separator(",".join(header), "model"):
            raise ValueError(f"'{file}' has {other} between its columns, and a table of points has commas; save it so.")
        if "images_per_s" in missing and (other := next((name for name in names if name.startswith("infer_")), "")):
            raise ValueError(
                f"'{file}' has speeds of inference ({other}); a fit needs those of training, as timm's training "
                "benchmark files have them (train_samples_per_sec)."
            )
        raise ValueError(
            f"'{file}' has no column {missing[0]} ({COLUMNS[missing[0]]}); a table of points needs {', '.join(NEEDED)}."
        )
    if twice := next((name for name in names if names.count(name) > 1), None):
        both = [column for column, name in zip(header, names, strict=True) if name == twice]
        raise ValueError(f"'{file}' has two columns of {twice} ({', '.join(both)}); keep one.")
    found = []
    for line, row in body:
        where = f"row {line} of {file.name}"
        if len(row) != len(header):
            raise ValueError(f"{where} has {counted(len(row), 'cell')} and the header {len(header)}; count the commas.")
        own = {name: value.strip() for name, value in zip(names, row, strict=True) if value.strip()}
        for name, value in given.items():
            if own.get(name, value) != value:
                raise ValueError(f"{where} says {name} {own[name]}, and -p {name} {value}; -p is for what no row says.")
        cells = given | own
        if empty := [name for name in NEEDED if name not in cells]:
            raise ValueError(f"{where}: {empty[0]} is empty ({COLUMNS[empty[0]]}).")
        found.append(cells | {"where": where})
    return found


def _lines(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """(the header, (number of the line, its cells) of each row)."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        if "\0" in "".join(lines):
            raise UnicodeError
        kept = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
        cells = [(n, next(csv.reader([line], strict=True))) for n, line in kept]
    except OSError as error:
        raise ValueError(f"'{file}' cannot be read: {error.strerror}.") from None
    except UnicodeError:
        raise ValueError(f"'{file}' is no table of points: it is no text in UTF-8; save it as CSV, UTF-8.") from None
    except csv.Error as error:
        raise ValueError(f"'{file}' cannot be read as CSV ({error}).") from None
    if not cells:
        raise ValueError(
            f"'{file}' is empty; its first line names the columns ({', '.join(NEEDED)}), others are points."
        )
    if len(cells) == 1:
        raise ValueError(f"'{file}' has no row below its header.")
    return [name.strip() for name in cells[0][1]], cells[1:]


def assumed(rows: list[dict[str, str]]) -> str:
    """What the rows do not say, in words with what is taken for it; '' where they say all."""
    usual = USUAL | {"ranks": "all devices of the nodes", "image_size": "224 or the network's own"}
    silent = {name: sum(name not in row for row in rows) for name in usual}
    each = [f"{name} {usual[name]}" + (f" ({count} of {len(rows)} rows)" if count < len(rows) else "")
            for name, count in silent.items() if count]  # fmt: skip
    return f"Assumed, since no column says it (-p COLUMN VALUE does): {', '.join(each)}." if each else ""


def unread(rows: list[dict[str, str]]) -> list[str]:
    """Columns that mean nothing to a fit, though --on may ask for them."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name not in {*COLUMNS, *LABELS}]


def stated(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What -p says, by the names of COLUMNS; ValueError for a name that is none, or is given twice."""
    found: dict[str, str] = {}
    for word, value in given:
        name = OTHERWISE.get(word, word)
        if name not in COLUMNS:
            hint = did_you_mean(word, KNOWN) or f"; it may have {', '.join(COLUMNS)}."
            raise ValueError(f"-p: a table of points has no column {word}{hint}")
        if name in found:
            raise ValueError(f"-p gives {name} twice; give it once.")
        if not value.strip():
            raise ValueError(f"-p {name} has no value; {COLUMNS[name]}.")
        found[name] = value.strip()
    return found
