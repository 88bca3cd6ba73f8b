"""The file of a user's own machine: its row and its speeds, as ``catalog.machines`` reads it."""

import json
from dataclasses import asdict
from typing import Any

from geofm_lib.catalog import speeds
from geofm_lib.catalog.machines import Machine


def text(machine: Machine, rows: list[dict[str, Any]], title: str, fitted: dict[str, Any] | None = None) -> str:
    """The file of a machine's row: TOML, the row, its speeds, and the conditions of the ``fitted`` points."""
    row = {name: value for name, value in asdict(machine).items() if value not in (None, "", {}, ())}
    del row["name"]
    lines = [f"# {title}", "", "[machine]", *(f"{name} = {_toml(value)}" for name, value in row.items())]
    for each in rows:
        known = {name: each[name] for name in (*speeds.COLUMNS[1:], "loads") if each.get(name) is not None}
        lines += ["", "[[speeds]]", *(f"{name} = {_toml(value)}" for name, value in known.items())]
    lines += ["", "[fitted]", *(f"{name} = {_toml(value)}" for name, value in fitted.items())] if fitted else []
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, float):
        return f"{value:.6g}" if "e" in f"{value:.6g}" or "." in f"{value:.6g}" else f"{value:.6g}.0"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
