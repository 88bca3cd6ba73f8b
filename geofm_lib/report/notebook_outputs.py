"""An executed notebook made ready for a page: the last state of every output, in one form, readable.

Nothing here is about a run: what a page says of a run comes from its run folder (`report`).
"""

import ast
import re

import nbformat

KINDS = ("image/png", "image/jpeg", "image/svg+xml", "text/html", "text/markdown", "text/plain")
"""What a page can show of an output, best first. Widgets fall back to their text."""

ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*(?:\x07|\x1b\\)")
ACTIVE = re.compile(r"<(script|style|iframe|object|embed)\b.*?</\1\s*>|<link\b[^>]*>", re.IGNORECASE | re.DOTALL)
HANDLER = re.compile(r"\son\w+\s*=\s*(\"[^\"]*\"|'[^']*')", re.IGNORECASE)
LINK = re.compile(r"\[([^\]]*)\]\(([\w-]+)\.ipynb\)")
ERROR_TAGS = ("papermill-error-cell-tag",)  # papermill's own notices; the page's banner says it better


def clean(notebook: nbformat.NotebookNode, pages_beside: bool = True) -> nbformat.NotebookNode:
    """A copy with papermill's notices dropped and every output in its last, plain state.

    Links between notebooks become links between their pages, or plain words where those are not beside this one.
    """
    notebook = nbformat.from_dict(notebook)
    notebook.cells = [cell for cell in notebook.cells if not set(ERROR_TAGS) & set(tags(cell))]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = outputs(cell.outputs)
        elif cell.cell_type == "markdown":
            cell.source = LINK.sub(r"[\1](\2.html)" if pages_beside else r"\1", cell.source)
    return notebook


def outputs(raw: list) -> list:
    """Outputs for a page: streams joined, progress collapsed to what stood last, one form of each display."""
    kept = []
    for output in raw:
        kind = output["output_type"]
        if kind == "stream":
            if kept and kept[-1].get("name") == output["name"]:
                kept[-1]["text"] += output["text"]
            else:
                kept.append(nbformat.from_dict(dict(output)))
        elif kind == "error":
            lines = [plain("\n".join(output["traceback"]))]
            words = {"ename": output["ename"], "evalue": plain(output["evalue"]), "traceback": lines}
            kept.append(nbformat.from_dict({"output_type": "error", **words}))
        else:
            kept += _shown(output)
    for output in kept:
        if output["output_type"] == "stream":
            output["text"] = plain(output["text"])
    return [output for output in kept if output["output_type"] != "stream" or output["text"].strip()]


def plain(text: str) -> str:
    """Text as a terminal would leave it: colours gone, and of a line redrawn by carriage returns the last state.

    >>> plain("step 1\\rstep 2\\rstep 3\\ndone")
    'step 3\\ndone'
    """
    lines = ANSI.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(next((part for part in reversed(line.split("\r")) if part), "") for line in lines)


def harmless(markup: str) -> str:
    """HTML of an output without scripts, styles, frames and handlers: a page has its own style and no behaviour."""
    return HANDLER.sub("", ACTIVE.sub("", markup))


def tags(cell) -> list[str]:
    """The tags of a cell."""
    return cell.get("metadata", {}).get("tags", [])


def title(notebook) -> str:
    """The question a notebook asks: its first heading, without marks."""
    for line in _first_markdown(notebook).splitlines():
        if line.startswith("# "):
            return re.sub(r"[*`]", "", line[2:]).strip()
    return "Untitled"


def first_paragraph(notebook) -> str:
    """The paragraph under the title, on one line and without Markdown's marks."""
    blocks = [block.strip() for block in _first_markdown(notebook).split("\n\n")]
    text = next((block for block in blocks if block and not block.startswith("#")), "")
    if not text:
        below = _first_markdown(notebook).partition("\n")[2].strip()
        text = below.split("\n\n")[0]
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"[*`]", "", text)).strip()


def injected(notebook) -> dict:
    """The parameters that were given for this execution: {name: value}, from papermill's cell; empty if none."""
    given: dict = {}
    for cell in notebook["cells"]:
        if "injected-parameters" in tags(cell):
            for node in ast.parse(cell["source"]).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    given[node.targets[0].id] = ast.unparse(node.value).strip("'\"")
    return given


def failed(notebook) -> str:
    """The message of the first cell that raised; empty if none did."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return plain(f"{output['ename']}: {output['evalue']}")
    return ""


def complete(notebook) -> bool:
    """Whether every code cell was executed."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and cell["source"].strip()]
    return all(cell.get("execution_count") for cell in code)


def _shown(output) -> list:
    """A display as a list of none or one: the best form a page can show, with its alt text."""
    kind = next((kind for kind in KINDS if kind in output["data"]), None)
    if kind is None:
        return []
    content = output["data"][kind]
    text = output["data"].get("text/plain", "")
    if kind == "text/html":
        content = harmless(content)
    if kind == "text/plain":
        content = plain(content)
    about = output.get("metadata", {}).get(kind, {})
    metadata = {"alt": about.get("alt") or text, "width": about.get("width", "")}
    return [nbformat.from_dict({"output_type": "display_data", "data": {kind: content}, "metadata": metadata})]


def _first_markdown(notebook) -> str:
    return next((cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"), "")
