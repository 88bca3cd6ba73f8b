"""An executed notebook made ready for a page: the last state of every output, in one form, readable and harmless.

A page has its own style, asks no network and runs nothing (`report/harmless`).
Nothing here is about a run: what a page says of a run comes from its run folder.
"""

import ast
import hashlib
import html
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_output

from geofm_lib.report import foreign
from geofm_lib.report.harmless import harmless
from geofm_lib.settings.base import shortened

# What a page can show of an output, best first, and how.
KINDS = {
    **{kind: kind for kind in ("image/png", "image/jpeg", "image/svg+xml")},
    **{kind: "text/html" for kind in ("image/gif", "image/webp", "text/html")},
    **{kind: "text/markdown" for kind in ("text/markdown", "text/latex")},
    "text/plain": "text/plain",
}
MOVES = re.compile(r"(\n|\r|\x1b\[\d*[AB])")  # of a terminal's cursor: nested progress bars go up and down
ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*(?:\x07|\x1b\\)")
SVG_SAFE = "/:=;,.()*!~-_?@|[]{}$^`'"
NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")
LINK = re.compile(r"\[([^\]]*)\]\(([\w-]+)\.ipynb\)")
ERROR_TAGS = ("papermill-error-cell-tag",)  # papermill's own notices; the page's banner says it better
PLACES = ("question", "answer", "body", "made")  # of a page, from its top; a cell names its own by a tag


def clean(notebook: NotebookNode, pages_beside: bool = True) -> NotebookNode:
    """A copy with papermill's notices dropped and every output in its last, plain state.

    Links between notebooks become links between their pages, or plain words where those are not beside this one.
    """
    notebook = nbformat.from_dict(notebook)
    widgets = notebook.metadata.get("widgets", {}).get(foreign.STATE, {}).get("state", {})
    notebook.metadata = nbformat.from_dict({})  # a language named there would be written into the page as it is
    for cell in notebook.cells:
        if cell.cell_type == "raw":  # would be written into the page as it is
            cell.cell_type, cell.source = "markdown", f"<pre>{html.escape(cell.source)}</pre>"
    kept = [cell for cell in notebook.cells if cell.cell_type in ("markdown", "code")]
    notebook.cells = placed([cell for cell in kept if not set(ERROR_TAGS) & set(tags(cell))])
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = outputs(cell.outputs, widgets)
        elif cell.cell_type == "markdown":
            cell.source = LINK.sub(r"[\1](\2.html)" if pages_beside else r"\1", attached(cell))
    return notebook


def attached(cell: NotebookNode) -> str:
    """The text of a cell, with the images that were pasted into it in the place of their names."""
    text = str(cell.source)
    for name, forms in cell.get("attachments", {}).items():
        kind = next((kind for kind in forms if kind in KINDS and kind.startswith("image/") and "svg" not in kind), None)
        text = text.replace(f"(attachment:{name})", f"({_address(kind, forms[kind])})") if kind else text
    return text


def outputs(raw: list[NotebookNode], widgets: Mapping[str, Any] | None = None) -> list[NotebookNode]:
    """Outputs for a page: streams joined, progress collapsed to what stood last, one form of each display.

    `widgets`: their states by model, as the notebook's metadata keeps them.
    """
    shown = []
    for output in _joined(raw):
        kept = (widgets or {}) if foreign.WIDGET in output.get("data", {}) else {}
        shown += _widget(output, kept) if kept else SHOWN.get(output["output_type"], _display)(output)
    return shown


def _joined(raw: list[NotebookNode]) -> list[NotebookNode]:
    """Consecutive streams of one name as one; a line that a later one of that name draws anew is left out."""
    joined: list[NotebookNode] = []
    for output in raw:
        output = NotebookNode(output)
        before = next((each for each in reversed(joined) if each.get("name") == output.get("name", "")), None)
        if output["output_type"] == "stream" and before is not None:
            if before is joined[-1]:
                before["text"] += output["text"]
                continue
            if output["text"].startswith("\r"):
                before["text"] = before["text"][: before["text"].rfind("\n") + 1]
        joined.append(output)
    return joined


def plain(text: str) -> str:
    """Text as a terminal would leave it: colours gone, and of a line that is redrawn the last state.

    >>> plain("step 1\\rstep 2\\rstep 3\\ndone")
    'step 3\\ndone'
    """
    if not re.search(r"\r(?!\n)|\x1b\[\d*[AB]", text):
        return ANSI.sub("", text).replace("\r\n", "\n")
    lines, row, fresh = [""], 0, False
    for piece in MOVES.split(text.replace("\r\n", "\n")):
        if MOVES.fullmatch(piece):
            way = {"\r": 0, "A": -1}.get(piece[-1], 1)
            row, fresh = max(0, row + way * int(re.sub(r"\D", "", piece) or 1)), True
            lines += [""] * (row + 1 - len(lines))
        elif said := ANSI.sub("", piece):
            lines[row] = said if fresh else lines[row] + said
            fresh = False
    return "\n".join(line.rstrip() if line.isspace() else line for line in lines)


def placed(cells: list[NotebookNode]) -> list[NotebookNode]:
    """The cells in the order of a page, each with its place in metadata: question, answer, body or made.

    A reader wants the answer at once and how it was made last; a notebook needs its settings and its run first. What
    asks the question is cut behind its heading, so that the answer stands between the two.
    """
    found: dict[str, list[NotebookNode]] = {place: [] for place in PLACES}
    for cell in cells:
        place = next((each for each in tags(cell) if each in PLACES), "made" if "parameters" in tags(cell) else "body")
        found["made" if "injected-parameters" in tags(cell) else place].append(cell)
    first = next((cell for cell in found["body"] if cell["cell_type"] == "markdown"), None)
    if first is not None and (parts := re.fullmatch(r"\s*(# [^\n]*)(.*)", first["source"], re.DOTALL)):
        found["question"] = [nbformat.from_dict({**first, "source": parts[1], "id": "title"})]
        first["source"] = parts[2].strip()
    for place, there in found.items():
        for cell in there:
            cell["metadata"] = nbformat.from_dict({**cell.get("metadata", {}), "place": place})
    return [cell for there in found.values() for cell in there]


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


def answer(notebook: NotebookNode, part: str = "answer") -> str:
    """The sentence that answers a page's question, as text; '' without one. part: or `answer-more` below it."""
    for output in _answers(notebook):
        if found := re.search(f'<p class="{part}">(.*?)</p>', output["data"].get("text/html", ""), re.DOTALL):
            return html.unescape(re.sub(r"<[^>]+>", "", found[1])).strip()
    return ""


def picture(notebook: NotebookNode) -> str:
    """The first image of the answer as a data address, laid out for a small place; '' without any."""
    for output in _answers(notebook):
        for kind, content in output["data"].items():
            if kind.startswith("image/"):
                return output["metadata"].get("narrow") or content
    return ""


def _answers(notebook: NotebookNode) -> list[NotebookNode]:
    cells = [cell for cell in notebook["cells"] if cell["metadata"].get("place") == "answer"]
    return [output for cell in cells for output in cell.get("outputs", []) if "data" in output]


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


def _stream(output: NotebookNode) -> list[NotebookNode]:
    text = plain(output["text"])
    name = "stderr" if output["name"] == "stderr" else "stdout"  # a third would be written into the page as it is
    return [new_output("stream", name=name, text=text)] if text.strip() else []


def _error(output: NotebookNode) -> list[NotebookNode]:
    lines = [plain("\n".join(output["traceback"]))]
    return [new_output("error", ename=output["ename"], evalue=plain(output["evalue"]), traceback=lines)]


def _display(output: NotebookNode) -> list[NotebookNode]:
    """The best form that a page can show, with its alt text and width, and a sentence on what it cannot."""
    data, said = output["data"], ""
    kind = next((kind for kind in KINDS if kind in data), "")
    if kind == "text/plain" and (foreign.known(data) or (len(data) > 1 and foreign.A_REPR.fullmatch(data[kind]))):
        kind = ""  # its text says that it cannot be shown, or nothing
    if foreign.WIDGET in data and kind in ("", "text/plain"):
        said = foreign.unkept(data)
    if not kind:
        return [_note(said or foreign.unshown(data))]
    content, about = data[kind], output.get("metadata", {}).get(kind, {})
    if kind == "text/plain":
        content = plain(content)
    narrow = about.get("narrow", "")  # the same for a phone
    if kind.startswith("image/"):  # as an image, in which nothing runs
        content, narrow = (_address(kind, each) if each else "" for each in (content, narrow))
    if kind in ("image/gif", "image/webp"):
        content = f'<img src="{content}">'
    if kind == "text/html":
        said = foreign.left_out(content, harmless(content))
        said = foreign.unshown(data) if said and foreign.known(data) else said
    width = str(about.get("width", ""))
    metadata = {"alt": about.get("alt") or data.get("text/plain", ""), "width": width * width.isdecimal()}
    metadata["narrow"] = narrow if narrow != content else ""
    shown = [new_output("display_data", data={KINDS[kind]: content}, metadata=metadata)]
    return (shown if kind != "text/html" or foreign.visible(harmless(content)) else []) + (
        [_note(said)] if said else []
    )


def _address(kind: str, content: str) -> str:
    """An image as a data address, without a character that ends an attribute or a source set."""
    if kind == "image/svg+xml":  # a third shorter than base64
        return f"data:{kind},{urllib.parse.quote(content, safe=SVG_SAFE)}"
    return f"data:{kind};base64,{NOT_BASE64.sub('', content)}"


def _widget(output: NotebookNode, widgets: Mapping[str, Any]) -> list[NotebookNode]:
    """A widget's still form where it has one, else its last state."""
    still = {kind: content for kind, content in output["data"].items() if kind in KINDS and kind != "text/plain"}
    content = foreign.widget(str(output["data"][foreign.WIDGET].get("model_id")), widgets)
    if still or not foreign.visible(harmless(content)):
        return _display(output)
    return [new_output("display_data", data={"text/html": content}, metadata={"alt": "", "width": ""})]


def _note(sentence: str) -> NotebookNode:
    """A sentence where an output would stand."""
    text = f'<p class="note">{html.escape(sentence)}</p>'
    return new_output("display_data", data={"text/html": text}, metadata={"alt": "", "width": ""})


SHOWN = {"stream": _stream, "error": _error}


def _first_markdown(notebook: NotebookNode) -> str:
    """The question and what follows it, which `placed` cuts apart."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    body = [cell["source"] for cell in cells[1:] if cell["metadata"].get("place") == "body"]
    return "\n\n".join([cell["source"] for cell in cells[:1]] + body[:1])
