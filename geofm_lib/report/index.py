"""The index of a folder of pages, made of the JSON file that stands beside each page."""

import json
from pathlib import Path

import jinja2

from geofm_lib import files
from geofm_lib.runs import provenance
from geofm_lib.runs.progress import duration

TEMPLATES = Path(__file__).resolve().with_name("templates")
INDEX = "index.html"
NEEDED = ("title", "summary", "parameters", "status", "seconds", "ended", "cpu")


def facts_of(page: Path) -> Path:
    """Where the facts of a page stand: NAME.json beside NAME.html, page.json beside a run's report.html."""
    return page.with_name("page.json") if page.stem == "report" else page.with_suffix(".json")


def write(folder: Path) -> Path:
    """Write `index.html`: each page's question, first paragraph, status, parameters, duration and date.

    ValueError for a folder without pages, and for a page without the facts of this project's pages.
    """
    pages = sorted(page for page in folder.glob("*.html") if page.name != INDEX)
    if not pages:
        raise ValueError(f"'{folder}' holds no pages to make an index of; run `make reports` first.")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    environment.filters["duration"] = duration
    text = environment.get_template("pages.html.j2").render(
        pages=[_facts(page) | {"page": page.name} for page in pages], commit=provenance.commit()
    )
    files.write_text(folder / INDEX, text)
    return folder / INDEX


def _facts(page: Path) -> dict:
    beside = facts_of(page)
    try:
        facts = json.loads(beside.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        facts = {}
    if missing := [name for name in NEEDED if name not in facts]:
        raise ValueError(f"'{page}' was not made by this project ({beside.name}: no {missing[0]}); move it elsewhere.")
    return facts
