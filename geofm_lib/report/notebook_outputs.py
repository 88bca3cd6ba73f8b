"""An executed notebook made ready for a page: the last state of every output, in one form, readable and harmless.

A page has its own style, asks no network and runs nothing: bleach keeps the HTML that is listed here, and no other.
Nothing here is about a run: what a page says of a run comes from its run folder.
"""

import ast
import base64
import hashlib
import html
import re

import nbformat
from bleach.css_sanitizer import CSSSanitizer
from bleach.sanitizer import Cleaner
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_output

from geofm_lib.settings.base import shortened

# What a page can show of an output, best first. Widgets fall back to their text.
KINDS = ("image/png", "image/jpeg", "image/svg+xml", "text/html", "text/markdown", "text/plain")
ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*(?:\x07|\x1b\\)")
NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")
LINK = re.compile(r"\[([^\]]*)\]\(([\w-]+)\.ipynb\)")
ERROR_TAGS = ("papermill-error-cell-tag",)  # papermill's own notices; the page's banner says it better
TAGS = set(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 "
    "hr i img kbd li mark ol p pre q s small span strong sub summary sup table tbody td tfoot th thead tr u ul".split()
)
ATTRIBUTES = {
    "*": {"class", "style", "title"},
    "a": {"href"},
    "details": {"open"},
    "img": {"src", "alt", "width", "height"},
    "ol": {"start"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan"},
}
STYLES = ("text-align", "vertical-align", "white-space", "font-weight", "font-style", "color", "background-color",
          "width", "min-width")  # fmt: skip
# Addresses: the web or a file beside the page; of images only what is inside the page.
ADDRESSES = {
    "href": re.compile(r"https?://.*|[^:]*", re.IGNORECASE | re.DOTALL),
    "src": re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=\s]*"),
}
# Their text would be left as words. What is harmful is bleach's to find, whatever this leaves.
UNREADABLE = re.compile(r"<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)


def clean(notebook: NotebookNode, pages_beside: bool = True) -> NotebookNode:
    """A copy with papermill's notices dropped and every output in its last, plain state.

    Links between notebooks become links between their pages, or plain words where those are not beside this one.
    """
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict({})  # a language named there would be written into the page as it is
    # A raw cell would be written into the page as it is.
    kept = [cell for cell in notebook.cells if cell.cell_type in ("markdown", "code")]
    notebook.cells = answer_first([cell for cell in kept if not set(ERROR_TAGS) & set(tags(cell))])
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = outputs(cell.outputs)
        elif cell.cell_type == "markdown":
            cell.source = LINK.sub(r"[\1](\2.html)" if pages_beside else r"\1", cell.source)
    return notebook


def outputs(raw: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs for a page: streams joined, progress collapsed to what stood last, one form of each display."""
    cell = nbformat.from_dict({"outputs": [{**each} for each in raw]})
    joined, _ = CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)
    return [shown for output in joined.outputs for shown in SHOWN.get(output["output_type"], _display)(output)]


def plain(text: str) -> str:
    """Text as a terminal would leave it: colours gone, and of a line redrawn by carriage returns the last state.

    >>> plain("step 1\\rstep 2\\rstep 3\\ndone")
    'step 3\\ndone'
    """
    lines = ANSI.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(next((part for part in reversed(line.split("\r")) if part), "") for line in lines)


def answer_first(cells: list[NotebookNode]) -> list[NotebookNode]:
    """The cells as a page shows them: the one tagged "answer", with the words before it, stands under the title.

    A notebook computes its answer before it can show it; a reader wants it at once.
    """
    place = next((k for k, cell in enumerate(cells) if "answer" in tags(cell)), 0)
    if place < 2:
        return cells
    start = place - (cells[place - 1]["cell_type"] == "markdown")
    return [cells[0], *cells[start : place + 1], *cells[1:start], *cells[place + 1 :]]


def digest(notebook: NotebookNode) -> str:
    """Which notebook this is, executed or not: of the text of its cells, without what an execution puts in."""
    put_in = {*ERROR_TAGS, "injected-parameters"}
    own = [cell["source"] for cell in notebook["cells"] if not put_in & set(tags(cell))]
    return hashlib.sha256("\n\n".join(own).encode()).hexdigest()[:16]


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.get("metadata", {}).get("tags", [])


def title(notebook: NotebookNode) -> str:
    """The question a notebook asks: its first heading, without marks."""
    found = re.search(r"^# (.*)", _first_markdown(notebook), re.MULTILINE)
    return re.sub(r"[*`]", "", found[1]).strip() if found else "Untitled"


def first_paragraph(notebook: NotebookNode) -> str:
    """The paragraph under the title, on one line and without Markdown's marks."""
    below = re.sub(r"^#.*", "", _first_markdown(notebook), flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", below.strip().split("\n\n")[0])
    return re.sub(r"\s+", " ", re.sub(r"[*`]", "", text)).strip()


def injected(notebook: NotebookNode) -> dict[str, str]:
    """The parameters that were given for this execution: {name: value}, from papermill's cell; empty if none."""
    given: dict[str, str] = {}
    for cell in notebook["cells"]:
        if "injected-parameters" in tags(cell):
            for node in ast.parse(cell["source"]).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    given[node.targets[0].id] = shortened(ast.unparse(node.value).strip("'\""))
    return given


def failed(notebook: NotebookNode) -> str:
    """The message of the first cell that raised; empty if none did."""
    found = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    errors = (plain(f"{each['ename']}: {each['evalue']}") for each in found if each["output_type"] == "error")
    return next(errors, "")


def complete(notebook: NotebookNode) -> bool:
    """Whether every code cell was executed."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and cell["source"].strip()]
    return all(cell.get("execution_count") for cell in code)


def harmless(markup: str) -> str:
    """The markup with the listed tags, attributes, styles and addresses only.

    >>> harmless("<p onclick='x()'>a <a href='javascript:x()'>b</a><img src=x onerror=x()></p><script>x()</script>")
    '<p>a <a>b</a><img></p>'
    """
    return CLEANER.clean(UNREADABLE.sub("", markup))


def _allowed(tag: str, name: str, value: str) -> bool:
    if name not in ATTRIBUTES["*"] | ATTRIBUTES.get(tag, set()):
        return False
    return name not in ADDRESSES or bool(ADDRESSES[name].fullmatch(html.unescape(value).strip()))


CLEANER = Cleaner(TAGS, _allowed, {"http", "https", "data"}, strip=True, css_sanitizer=CSSSanitizer(STYLES))


def _stream(output: NotebookNode) -> list[NotebookNode]:
    text = plain(output["text"])
    name = "stderr" if output["name"] == "stderr" else "stdout"  # a third would be written into the page as it is
    return [new_output("stream", name=name, text=text)] if text.strip() else []


def _error(output: NotebookNode) -> list[NotebookNode]:
    lines = [plain("\n".join(output["traceback"]))]
    return [new_output("error", ename=output["ename"], evalue=plain(output["evalue"]), traceback=lines)]


def _display(output: NotebookNode) -> list[NotebookNode]:
    """None or one: the best form that a page can show, with its alt text and width."""
    kind = next((kind for kind in KINDS if kind in output["data"]), None)
    if kind is None:
        return []
    content, about = output["data"][kind], output.get("metadata", {}).get(kind, {})
    if kind == "text/plain":
        content = plain(content)
    if kind == "image/svg+xml":  # as an image, in which nothing runs
        content = base64.b64encode(content.encode()).decode()
    if kind.startswith("image/"):
        content = NOT_BASE64.sub("", content)
    width = str(about.get("width", ""))
    metadata = {"alt": about.get("alt") or output["data"].get("text/plain", ""), "width": width * width.isdecimal()}
    return [new_output("display_data", data={kind: content}, metadata=metadata)]


SHOWN = {"stream": _stream, "error": _error}


def _first_markdown(notebook: NotebookNode) -> str:
    return next((cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"), "")
