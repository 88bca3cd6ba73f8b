"""One executed notebook -> one self-contained HTML file, with its facts as JSON beside it, and the index of such pages.

The page looks as `templates/` says: no scripts, no network, code folded, alt text on every figure. What it says of a
run (status, error, provenance) is read from the run folder, never from the notebook's metadata.
"""

import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from nbconvert import HTMLExporter

from geofm_lib import files
from geofm_lib.figures.display import NO_RESULTS
from geofm_lib.report import captions, mathematics, notebook_outputs
from geofm_lib.report.colophon import chain, colophon
from geofm_lib.report.ending import banner
from geofm_lib.report.harmless import harmless
from geofm_lib.runs import results
from geofm_lib.runs.overview import duration
from geofm_lib.runs.run import Run

TEMPLATES = Path(__file__).resolve().with_name("templates")
INDEX = "index.html"
PICTURE = re.compile(r"data:image/[^\"<>&]*")
SIZE = re.compile(r"width='([\d.]+)pt'(?: |%20)height='([\d.]+)pt'")  # of a picture that is SVG
STAGES = {  # of the index, the front page first -> its pages
    "The paper": ("06_paper",),
    "Data": ("01_data",),
    "Pretraining": ("02_pretrain", "09_objectives"),
    "Speed and memory": ("03_throughput", "04_scaling", "11_peers"),
    "Features": ("05_probe", "07_accuracy", "08_transfer", "08_segment", "08_detect", "08_series"),
    "Any runs": ("10_compare",),
}
NEEDED = ("title", "summary", "parameters", "status", "seconds", "ended", "cpu")


def render(notebook_path: Path, page_path: Path, run: Run | None = None) -> Path:
    """Write the page of an executed notebook, and its facts beside it; returns the page's path.

    The runner's own word is in `execution.json` beside the notebook, since a killed kernel cannot say how it ended.
    Without it the page goes by the run folder, and for a notebook without a run by its outputs.
    """
    notes = notebook_path.with_name("execution.json")
    said = _said(notes)
    source = nbformat.read(str(notebook_path), as_version=4)
    alone = _facts_of(page_path).name == "page.json"  # in a run folder, with no index and no pages beside it
    notebook = notebook_outputs.clean(source, pages_beside=not alone)
    captions.number(notebook.cells)
    top = banner(notebook, run, said)
    if top["status"] == "finished" and notebook_outputs.answer(notebook).startswith(NO_RESULTS):
        top |= {"status": "empty", "words": NO_RESULTS}
    summary, where = (run.summary, run.environment) if run else ({}, {})
    seconds = said.get("seconds") if run is None or run.seconds is None else run.seconds
    last = run.this_slice if run and run.summary else {}
    kernels = run.kernels.get("stacks", []) if run else []
    ended = datetime.fromtimestamp(last["ended"], UTC) if last else datetime.now(UTC)
    facts = {
        "notebook": said.get("notebook", f"{page_path.stem}.ipynb"),
        "digest": notebook_outputs.digest(source),
        "title": notebook_outputs.title(notebook) + _of(page_path.stem, Path(said.get("notebook", "")).stem),
        "summary": notebook_outputs.first_paragraph(notebook),
        "answer": notebook_outputs.answer(notebook),
        "conditions": notebook_outputs.answer(notebook, "answer-more"),
        "parameters": notebook_outputs.injected(source),
        "status": top["status"],
        "seconds": None if seconds is None else round(seconds, 1),
        "ended": ended.strftime("%Y-%m-%d %H:%M UTC"),
        "device": where.get("device") or "",
        "cpu": top["cpu"],
        "run": run.folder.name if run else "",
        "commit": where.get("commit") or results.commit(),
        **({"kernels": kernels} if kernels else {}),
    }
    picture = notebook_outputs.picture(notebook)
    has_colophon = any(cell.get("id") == "colophon" and cell.get("outputs") for cell in notebook.cells)
    shown = facts | {
        "name": Path(facts["notebook"]).stem,
        "index": "" if alone else INDEX,
        "banner": top,
        "chain": chain(run)._repr_html_() if run and len(run.slices) > 1 else "",
        "colophon": "" if has_colophon else colophon(run)._repr_html_(),
        "contents": captions.contents(notebook.cells),
    }
    body, _ = _exporter().from_notebook_node(notebook, resources={"geofm": shown})
    page_path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(page_path, body)
    files.write_json(_facts_of(page_path), facts | {"picture": picture})
    return page_path


def _of(page: str, notebook: str) -> str:
    """What tells a page from others of its notebook in their index.

    >>> _of("08_segment", "08_transfer"), _of("08_transfer", "08_transfer"), _of("report", "08_transfer")
    (' (segment)', '', '')
    """
    number, _, own = page.partition("_")
    return f" ({own.replace('_', ' ')})" if own and page != notebook and notebook.startswith(f"{number}_") else ""


def _said(notes: Path) -> dict[str, Any]:
    """The runner's own word, {} where there is none that can be read: the run folder says more."""
    with suppress(OSError, ValueError):
        return files.read_json(notes)
    return {}


def render_run(folder: Path, notebook: Path | None = None) -> Path:
    """Write RUN/report.html anew, of the run's own notebook.ipynb or of another executed one."""
    executed = notebook or folder / "notebook.ipynb"
    if not executed.is_file():
        raise ValueError(f"there is no '{executed}'; name the executed notebook after the run: RUN NOTEBOOK")
    if notebook and not any(cell.get("execution_count") for cell in nbformat.read(executed, as_version=4).cells):
        raise ValueError(f"'{executed}' has not been executed; leave it out for the page of the run's own notebook")
    return render(executed, folder / "report.html", Run(folder))


def write_index(folder: Path) -> Path:
    """Write `index.html`: each page's question, answer and picture by stage, with status, parameters, duration, date.

    A page that another notebook than today's made is marked as that.

    ValueError for a folder without pages, and for a page without the facts of this project's pages.
    """
    pages = sorted(page for page in folder.glob("*.html") if page.name != INDEX)
    if not pages:
        raise ValueError(f"'{folder}' holds no pages to make an index of; run `make reports` first.")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    environment.filters["duration"] = duration
    shown = [_facts(page) | {"page": page.name} for page in pages]
    for facts in shown:
        facts["stale"] = _stale(facts)
        facts["tall"] = bool((size := SIZE.search(facts.get("picture", ""))) and float(size[2]) > 1.3 * float(size[1]))
        facts["picture"] = facts.get("picture", "") if PICTURE.fullmatch(facts.get("picture", "")) else ""
    known = [name for names in STAGES.values() for name in names]
    others = [facts for facts in shown if Path(facts["page"]).stem not in known]
    stages = {
        stage: [facts for name in names for facts in shown if Path(facts["page"]).stem == name]
        for stage, names in STAGES.items()
    }
    stages = {stage: there for stage, there in (stages | {"Other pages": others}).items() if there}
    commits = {facts["commit"] for facts in shown if facts.get("commit")}
    how = {"commit": results.commit(), "several": len(commits) > 1}
    text = environment.get_template("pages.html.j2").render(stages=stages, **how)
    files.write_text(folder / INDEX, text)
    return folder / INDEX


def _stale(facts: dict[str, Any]) -> bool:
    """Whether the page's notebook is one of ours and has changed since."""
    today = results.ROOT / "notebooks" / Path(facts.get("notebook", "")).name
    if not facts.get("digest") or not today.is_file():
        return False
    return bool(facts["digest"] != notebook_outputs.digest(nbformat.read(str(today), as_version=4)))


def _facts(page: Path) -> dict[str, Any]:
    beside = _facts_of(page)
    try:
        facts = files.read_json(beside)
        fault = ", ".join(name for name in NEEDED if name not in facts)
        fault = fault and f"{beside} lacks {fault}"
    except FileNotFoundError:
        raise ValueError(f"'{page}' was not made by this project (no {beside.name}); move it elsewhere.") from None
    except files.Damaged as error:
        fault = str(error)
    if fault:  # one page's fault, never that of the index
        facts = {**dict.fromkeys(NEEDED, ""), "parameters": {}, "seconds": None}
        facts |= {"title": page.stem, "status": "damaged", "summary": f"{fault}; render this page again."}
    return facts


def _facts_of(page: Path) -> Path:
    """Where the facts of a page stand: NAME.json beside NAME.html, page.json beside a run's report.html."""
    return page.with_name("page.json") if page.stem == "report" else page.with_suffix(".json")


def _exporter() -> HTMLExporter:
    """nbconvert's HTML exporter with our template, and nothing of its own that needs scripts or the network."""
    if not (TEMPLATES / "index.html.j2").is_file():
        raise ValueError(f"The template is not at '{TEMPLATES}'; run from a clone of geofm, installed with -e.")
    bases = [str(TEMPLATES.parent)]
    exporter = HTMLExporter(template_name=TEMPLATES.name, extra_template_basedirs=bases, exclude_anchor_links=True)
    origin = results.origin()
    shown = {
        "harmless": lambda markup: captions.linked(harmless(markup), origin),
        "anchored": captions.anchored,
        "linked": captions.linked,
        "markdown2html": mathematics.markdown,
    }
    for name, change in shown.items():
        exporter.register_filter(name, change)
    exporter.preprocessors = []
    exporter._init_preprocessors()
    return exporter
