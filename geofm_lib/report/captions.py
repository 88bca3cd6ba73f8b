"""Numbers, captions, anchors and links of a page: what lets a reader find, name and follow each part of it."""

import re

from nbformat import NotebookNode

LONG = 4  # sections from which on a page has a list of contents
CAPTION = re.compile(r'<p class="caption">(.*?)</p>\s*', re.DOTALL)
HEADING = re.compile(r"<h([23])>(.*?)</h\1>", re.DOTALL)
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
NOT_TEXT = re.compile(r"(<a\b.*?</a>|<code\b.*?</code>|<pre\b.*?</pre>|<[^>]+>)", re.DOTALL)
NAMED = re.compile(r"arXiv[: ]\s*(?P<preprint>\d{4}\.\d{4,5})|https?://[^\s<>\"')]*[^\s<>\"').,;]")
COMMIT = re.compile(r"([0-9a-f]{7,40})(?:\+\S*)?")


def number(cells: list[NotebookNode]) -> None:
    """Give every figure and table of the page, in its order, a label, an anchor and a caption in the metadata.

    A figure's caption is its alt text, a table's the paragraph of class caption that it brings. One without any is
    called by the section that it stands in.
    """
    counts, section = {"Figure": 0, "Table": 0}, ""
    for cell in cells:
        if cell["cell_type"] == "markdown":
            section = next(iter(reversed(headings(cell["source"]))), section)
            continue
        for output in cell["outputs"]:
            data = output.get("data", {})
            markup = data.get("text/html", "")
            kind = "Figure" if any(each.startswith("image/") for each in data) else "Table"
            # Folded numbers belong to the figure above them.
            if kind == "Table" and ("<table" not in markup or markup.lstrip().startswith("<details")):
                continue
            counts[kind] += 1
            own = CAPTION.search(markup) if kind == "Table" else None
            if own:
                data["text/html"] = markup[: own.start()] + markup[own.end() :]
            alt = output["metadata"].get("alt") if kind == "Figure" else ""
            words = own[1] if own else alt or section
            output["metadata"] |= {
                "label": f"{kind} {counts[kind]}",
                "anchor": f"{kind.lower()}-{counts[kind]}",
                "caption": words.strip(),
            }


def headings(markdown: str) -> list[str]:
    """The headings of the second level in a cell, without marks."""
    found = re.findall(r"^## +(.*)$", FENCE.sub("", markdown), re.MULTILINE)
    return [re.sub(r"[*`]", "", each).strip() for each in found]


def contents(cells: list[NotebookNode]) -> list[tuple[str, str]]:
    """(anchor, heading) of each section of the page's body; [] of a short page."""
    body = [cell for cell in cells if cell["cell_type"] == "markdown" and cell["metadata"].get("place") == "body"]
    found = [(slug(each), each) for cell in body for each in headings(cell["source"])]
    return found if len(found) >= LONG else []


def slug(heading: str) -> str:
    """A heading as an anchor: small letters, figures and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"<[^>]+>|&\w+;", "", heading).lower()).strip("-")


def anchored(markup: str) -> str:
    """The markup with an id on each heading of the second and third level.

    >>> anchored("<h2>Is it <em>so</em>?</h2>")
    '<h2 id="is-it-so">Is it <em>so</em>?</h2>'
    """
    return HEADING.sub(lambda found: f'<h{found[1]} id="{slug(found[2])}">{found[2]}</h{found[1]}>', markup)


def linked(markup: str, origin: str = "") -> str:
    """The markup with links where its text names a preprint or a web address, and with `origin` where it is a commit.

    >>> linked("<p>See arXiv 2404.11706, and <code>arXiv 1</code>.</p>")
    '<p>See <a href="https://arxiv.org/abs/2404.11706">arXiv 2404.11706</a>, and <code>arXiv 1</code>.</p>'
    """
    parts = NOT_TEXT.split(markup)
    for k in range(0, len(parts), 2):
        if origin and COMMIT.fullmatch(parts[k]):
            parts[k] = COMMIT.sub(rf'<a href="{origin}/commit/\1">\g<0></a>', parts[k])
        else:
            parts[k] = NAMED.sub(lambda found: f'<a href="{_address(found)}">{found[0]}</a>', parts[k])
    return "".join(parts)


def _address(found: re.Match[str]) -> str:
    return f"https://arxiv.org/abs/{found['preprint']}" if found["preprint"] else found[0]
