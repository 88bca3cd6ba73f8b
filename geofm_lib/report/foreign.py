"""What a page cannot show as it is, in a form that it can: widgets by their last state, the rest by a sentence.

A page runs nothing. So an output that only scripts draw is named, with how its author can keep a picture of it.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
SCRIPTS = "a page runs no scripts"
# Beginning of a mime type, or a tag -> (what it is, why it is not shown, how to keep it). The first that fits is told.
KINDS = {
    "application/vnd.plotly": ("An interactive plotly figure", SCRIPTS, "figure.show('png') keeps a picture of it"),
    "application/vnd.vega": ("An interactive Vega chart", SCRIPTS, "its save() writes a picture of it"),
    "application/vnd.bokeh": ("An interactive bokeh figure", SCRIPTS, "bokeh.io.export_png keeps a picture of it"),
    "application/vnd.holoviews": ("An interactive HoloViews figure", SCRIPTS, "hv.save keeps a picture of it"),
    "application/javascript": ("JavaScript", SCRIPTS, ""),
    "application/pdf": ("A PDF", "a page shows none", "save it beside the page"),
    "video/": ("A video", "a page plays none", "save it beside the page"),
    "audio/": ("Sound", "a page plays none", "save it beside the page"),
    "<video": ("A video", "a page plays none", "save it beside the page"),
    "<audio": ("Sound", "a page plays none", "save it beside the page"),
    "<iframe": ("Another page in a frame", "a page loads nothing", "save a picture of it"),
    "<object": ("Something of another program", "a page loads nothing", "save a picture of it"),
    "<embed": ("Something of another program", "a page loads nothing", "save a picture of it"),
    "<canvas": ("A drawing by scripts", SCRIPTS, "save a picture of it"),
    "<script": ("Something that scripts draw", SCRIPTS, "save a picture of it"),
}
PLOTLY = "application/vnd.plotly.v1+json"
A_REPR = re.compile(r"\s*(<[\w.]+( object)?\b[^>]*>|[A-Z]\w+\(.*\))\s*", re.DOTALL)  # says nothing to a reader
VISIBLE = re.compile(r"<(img|hr|math)\b|(?<=>)[^<>]*[^<>\s]|^[^<>]*[^<>\s]", re.IGNORECASE)
DRAWING = re.compile(r"<svg\b(?:(?!<svg\b).)*?</svg\s*>", re.IGNORECASE | re.DOTALL)
UNLIKE = (AttributeError, IndexError, KeyError, TypeError, ValueError)  # of content that is not what its kind says
BAR = 20  # characters of a widget's progress bar


def sentence(kind: str, more: str = "") -> str:
    """A sentence in place of an output of this mime type, or of HTML that begins so.

    >>> sentence("video/mp4")
    'A video is not shown here: a page plays none (save it beside the page).'
    """
    usual = (f"An output of the kind {kind}", "a page has no form of it", "")
    what, why, instead = next((row for start, row in KINDS.items() if kind.startswith(start)), usual)
    return f"{what}{more} is not shown here: {why}{f' ({instead})' if instead else ''}."


def known(data: Iterable[str]) -> str:
    """The first mime type of an output that only something else than a page can show; "" if there is none."""
    return next((kind for start in KINDS for kind in data if kind.startswith(start)), "")


def unshown(data: Mapping[str, Any]) -> str:
    """A sentence on an output that has no form for a page."""
    kind = known(data) or next((kind for kind in data if not kind.startswith("text/")), next(iter(data), "(none)"))
    return sentence(kind, _plotly(data[kind]) if kind == PLOTLY else "")


def left_out(markup: str, clean: str) -> str:
    """A sentence on what HTML lost when it was made harmless, "" if nothing that a reader would miss."""
    lost = [tag for tag in KINDS if tag[0] == "<" and re.search(rf"{tag}\b", markup, re.IGNORECASE)]
    if lost and (lost != ["<script"] or not visible(clean)):
        return sentence(lost[0])
    return "" if visible(clean) or not markup.strip() else "This output has nothing that a page can show."


def visible(markup: str) -> bool:
    """Whether HTML shows anything."""
    return bool(VISIBLE.search(markup))


def widget(model: str, models: Mapping[str, Any]) -> str:
    """The last state of a widget as HTML, still to be made harmless; "" if it says nothing."""
    with suppress(*UNLIKE):
        return "".join(_widget(model, models, set()))
    return ""


def unkept(data: Mapping[str, Any]) -> str:
    """A sentence on a widget whose state is not in the notebook, or says nothing."""
    name = re.match(r"\s*(\w+)\(", str(data.get("text/plain", "")))
    what = f"A widget ({name[1]})" if name else "A widget"
    return f"{what} stood here, and its last state was not kept with the notebook."


def _widget(model: str, models: Mapping[str, Any], seen: set[str]) -> Iterator[str]:
    row = models.get(model) or {}
    state, kind = row.get("state", {}), row.get("model_name", "")
    if model in seen:
        return
    seen.add(model)
    described = f"{html.escape(str(state.get('description', '')))} ".lstrip()
    if "children" in state:
        parts = ["".join(_widget(str(child).removeprefix("IPY_MODEL_"), models, seen)) for child in state["children"]]
        yield " ".join(parts) if kind == "HBoxModel" else "".join(f"<div>{part}</div>" for part in parts if part)
    elif kind in ("HTMLModel", "HTMLMathModel"):
        yield described + str(state.get("value", ""))
    elif kind.endswith("ProgressModel"):
        low, high = float(state.get("min", 0)), float(state.get("max", 100))
        done = round(BAR * (float(state.get("value", 0)) - low) / ((high - low) or 1))
        yield f"{described}{'█' * done}{'░' * (BAR - done)}"
    elif kind == "ImageModel":
        for buffer in row.get("buffers", []):
            yield f'<img src="data:image/{state.get("format", "png")};base64,{buffer.get("data", "")}">'
    elif kind == "OutputModel":
        yield from (_as_html(output) for output in state.get("outputs", []))
    elif "_options_labels" in state:
        chosen, labels = state.get("index"), state["_options_labels"]
        chosen = chosen if isinstance(chosen, list | tuple) else [] if chosen is None else [chosen]
        yield described + html.escape(", ".join(str(labels[each]) for each in chosen if each < len(labels)))
    elif state.get("value") is not None:
        yield described + html.escape(str(state["value"]))
    elif described.strip():
        yield f"[{described.strip()}]"


def _as_html(output: Mapping[str, Any]) -> str:
    """What an Output widget has caught."""
    data = output.get("data", {})
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<img src="data:{kind};base64,{data[kind]}">'
    if "text/html" in data:
        return str(data["text/html"])
    text = output.get("text") or data.get("text/plain") or "\n".join(output.get("traceback", []))
    return f"<pre>{html.escape(text.split(chr(13))[-1])}</pre>"


def _plotly(figure: Any) -> str:
    """What is known of a plotly figure without drawing it: its title, and its traces by kind."""
    with suppress(*UNLIKE):
        figure = json.loads(figure) if isinstance(figure, str) else figure
        title = (figure.get("layout") or {}).get("title") or ""
        title = title.get("text", "") if isinstance(title, dict) else title
        kinds = [str(trace.get("type", "scatter")) for trace in figure.get("data") or []]
        named = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        return "".join([f" '{title}'" if title else "", f" ({named})" if named else ""])
    return ""
