"""Pages: one executed notebook -> one self-contained HTML file, and an index of such files.

The page looks as `templates/` says: no scripts, no network, code folded, alt text on every figure. What it
says of a run (status, error, provenance) is read from the run folder, never from the notebook's metadata.
"""

import html
import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd

from geofm_lib import files
from geofm_lib.figures.display import Table
from geofm_lib.report import notebook_outputs
from geofm_lib.runs import provenance
from geofm_lib.runs.progress import duration
from geofm_lib.runs.records import slices as run_slices
from geofm_lib.runs.run import Run

TEMPLATE = Path(__file__).resolve().with_name("templates")
LOG_LINES = 25
ENDED_BADLY = ("failed", "killed", "stopped")


def render(notebook_path, page_path, run: Run | None = None, status: str | None = None, error: str = "",
           seconds: float | None = None) -> Path:  # fmt: skip
    """Write the page of an executed notebook; returns its path.

    `run` is the run folder the notebook is about, if any. `status` (finished, failed, stopped, killed), `error` and
    `seconds` are the runner's own word; a kernel that was killed cannot say so itself. Without them the page goes by
    the run folder, and for a notebook without a run by its outputs.
    """
    source = nbformat.read(str(notebook_path), as_version=4)
    given = notebook_outputs.injected(source)
    page_path = Path(page_path)
    alone = page_path.stem == "report"  # in a run folder, with no index and no other pages beside it
    notebook = notebook_outputs.clean(source, pages_beside=not alone)
    top = banner(notebook, run, status, error)
    if run is not None:
        seconds = run.summary.get("seconds", seconds)
    elif seconds is not None and top["status"] == "finished":
        top["text"] = f"Every cell ran, in {duration(seconds)}."
    meta = {
        "status": top["status"],
        "parameters": json.dumps(given),
        "seconds": "" if seconds is None else round(seconds, 1),
        "ended": _ended(run) or datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": "CPU" if top["cpu"] else "",
    }
    page = {
        "title": notebook_outputs.title(notebook),
        "summary": notebook_outputs.first_paragraph(notebook),
        "name": _name(notebook_path, page_path),
        "index": "" if alone else "index.html",
        "meta": meta,
        "banner": top,
        "chain": chain(run)._repr_html_() if run and len(run_slices(run)) > 1 else "",
        "colophon": "" if _has_colophon(notebook) else colophon(run)._repr_html_(),
    }
    body, _ = _exporter().from_notebook_node(notebook, resources={"geofm": page})
    page_path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(page_path, body)
    return page_path


def render_run(folder: Path, notebook: Path | None = None) -> Path:
    """Write RUN/report.html anew, of the run's own notebook.ipynb or of another executed one."""
    executed = notebook or folder / "notebook.ipynb"
    if not executed.is_file():
        raise ValueError(
            f"there is no '{executed}'; name the executed notebook after the run: geofm report RUN NOTEBOOK"
        )
    known = _execution(executed)
    return render(executed, folder / "report.html", Run(folder), known.get("status"), known.get("error", ""))


def banner(notebook, run: Run | None, status: str | None = None, error: str = "") -> dict:
    """What stands at the top of a page: {"status", "text", "error", "log", "cpu"}."""
    raised = notebook_outputs.failed(notebook)
    status = _status(run, status, raised, notebook_outputs.complete(notebook))
    summary = run.summary if run else {}
    log = notebook_outputs.plain(run.log_tail(LOG_LINES)) if run and status in ENDED_BADLY else ""
    text = {
        "finished": "The run finished." if run else "Every cell ran.",
        "stopped": "The run was stopped and saved what it needs; execute the notebook again to go on.",
        "failed": "This page is incomplete.",
        "killed": "The kernel or its ranks were killed before the run could end; execute the notebook again to go on.",
        "running": "The run had not ended when this page was made.",
        "waiting": "The run had not begun when this page was made.",
    }[status]
    cause = ""
    if status == "finished" and "seconds" in summary:
        ranks = summary.get("ranks", 1)
        text = f"The run took {duration(summary['seconds'])} on {ranks} rank{'s' if ranks != 1 else ''}."
    if status in ("failed", "killed"):
        cause = summary.get("error") or error or raised
        if summary.get("error") and summary.get("rank") is not None:
            text += f" Rank {summary['rank']} failed:"
        elif run and run.status == "finished":
            text += " The run itself finished; a cell after it failed:"
            log = ""
    if status == "stopped":
        cause = summary.get("reason", "")
    return {
        "status": status,
        "text": text,
        "error": notebook_outputs.plain(cause).strip(),
        "log": log,
        "cpu": _cpu(run),
    }


def chain(run: Run) -> Table:
    """Every job (or launch) that worked on this run, oldest first: when, which steps, how it ended."""
    rows = [
        {
            "job": f"{each['job']}-{each['restart']}" if each["job"] else "",
            "nodes": each["nodes"],
            "began": datetime.fromtimestamp(each["started"], UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "took": duration(each["ended"] - each["started"]),
            "saved steps": f"{each['from_step']} to {each['to_step']}",
            "status": each["status"],
            "reason": each["reason"],
        }
        for each in run_slices(run)
    ]
    hours = sum(each["node_hours"] for each in run_slices(run))
    return Table(pd.DataFrame(rows), f"This run took {len(rows)} starts and {hours:.2f} node-hours (times are UTC)")


def colophon(run: Run | None = None) -> Table:
    """Where a result comes from: commit, parameters, versions, host and devices, data, duration."""
    if run is None:
        here = provenance.environment()
        facts = {"commit": here["commit"], "made": here["launched"], "host": here["launcher_host"],
                 "packages": _packages(here)}  # fmt: skip
        return Table(_facts(facts), "Provenance", head=False)
    summary, where = run.summary, run.environment
    slurm = where.get("slurm_job") and f"{where['slurm_job']} (restart {where.get('slurm_restart') or 0})"
    facts = {
        "run folder": run.folder.name,
        "status": run.status,
        "commit": where.get("commit"),
        "launched": where.get("launched"),
        "duration": duration(summary["seconds"]) if "seconds" in summary else None,
        "host": ", ".join(where.get("nodes") or []) or where.get("host") or where.get("launcher_host"),
        "device": where.get("device"),
        "torch is built for": where.get("torch_build"),
        "ranks": where.get("ranks"),
        "threads per rank": where.get("threads_per_rank"),
        "data fingerprint": summary.get("fingerprint") or run.resolved.get("data_fingerprint"),
        "Slurm job": slurm,
        "Python": where.get("python") and f"{where['python']} on {where.get('platform', '')}",
        "packages": _packages(where),
        "parameters": ", ".join(f"{name}={value!r}" for name, value in run.settings.items()),
    }
    return Table(_facts(facts), "Provenance, read from the run folder", head=False)


def write_index(reports_dir) -> Path:
    """Write `index.html` of a folder of pages: each page's question, first paragraph, parameters, status, duration."""
    reports_dir = Path(reports_dir)
    pages = sorted(page for page in reports_dir.glob("*.html") if page.name != "index.html")
    if not pages:
        raise ValueError(f"'{reports_dir}' holds no pages to make an index of; run `make reports` first.")
    items = "\n".join(_index_item(page) for page in pages)
    commit = html.escape(provenance.commit())
    style = (TEMPLATE / "page.css").read_text(encoding="utf-8")
    text = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>geofm: reports</title><style>{style}</style></head>
<body><header class="top"><span>geofm</span><span>commit {commit}</span></header><main>
<h1>Reports</h1>
<p>Each page is one executed notebook: a question, what was run to answer it, and what came out.</p>
<ol class="pages">
{items}
</ol></main></body></html>
"""
    index = reports_dir / "index.html"
    index.write_text(text, encoding="utf-8")
    return index


def _status(run: Run | None, told: str | None, raised: str, complete: bool) -> str:
    """One word for the page: the worst of what the run folder, the runner and the cells say."""
    if told == "killed":
        return "killed"
    if run is not None and run.status in ENDED_BADLY:
        return run.status
    if told in ENDED_BADLY:
        return told
    if raised:
        return "failed"
    if run is not None and run.status != "finished":
        return run.status
    return "finished" if told == "finished" or complete else "killed"


def _cpu(run: Run | None) -> str:
    if run is None or run.environment.get("device_type", "cpu") != "cpu":
        return ""
    return "Ran on CPU: times and memory say nothing about a GPU." if run.environment else ""


def _ended(run: Run | None) -> str:
    summary = run.summary if run else {}
    if "started" not in summary or "seconds" not in summary:
        return ""
    return datetime.fromtimestamp(summary["started"] + summary["seconds"], UTC).strftime("%Y-%m-%d %H:%M UTC")


def _execution(notebook_path) -> dict:
    """What the runner noted beside the executed notebook; {} if it was not the runner's."""
    notes = Path(notebook_path).with_name("execution.json")
    return json.loads(notes.read_text()) if notes.is_file() else {}


def _name(notebook_path, page_path: Path) -> str:
    """The notebook's own name, for the page's head."""
    known = _execution(notebook_path).get("notebook")
    return Path(known).stem if known else page_path.stem


def _has_colophon(notebook) -> bool:
    return any(cell.get("id") == "colophon" and cell.get("outputs") for cell in notebook.cells)


def _packages(environment: dict) -> str:
    return ", ".join(f"{name} {number}" for name, number in environment.get("packages", {}).items())


def _facts(facts: dict) -> pd.DataFrame:
    shown = [(name, str(value)) for name, value in facts.items() if value not in (None, "")]
    return pd.DataFrame(shown, columns=["fact", "value"])


def _exporter():
    """nbconvert's HTML exporter with our template, and nothing of its own that needs scripts or the network."""
    from nbconvert import HTMLExporter

    if not (TEMPLATE / "index.html.j2").is_file():
        raise ValueError(f"The page template is not at '{TEMPLATE}'; run from a checkout of geofm, installed with -e.")
    exporter = HTMLExporter(
        template_name=TEMPLATE.name,
        extra_template_basedirs=[str(TEMPLATE.parent)],
        exclude_anchor_links=True,
        sanitize_html=False,
    )
    exporter.preprocessors = []
    exporter._init_preprocessors()
    return exporter


def _index_item(page: Path) -> str:
    meta = {name: html.escape(value) for name, value in _meta(page).items()}
    status = meta["geofm:status"]
    given = json.loads(html.unescape(meta["geofm:parameters"]))
    facts = [", ".join(f"{html.escape(name)}={html.escape(str(value))}" for name, value in given.items()) or "defaults"]
    facts += [duration(float(meta["geofm:seconds"]))] if meta["geofm:seconds"] else []
    facts += [meta["geofm:device"]] if meta["geofm:device"] else []
    facts += [meta["geofm:ended"]]
    head = f'<h2><a href="{html.escape(page.name)}">{meta["title"]}</a></h2>'
    pill = f'<span class="pill {status}">{status.upper()}</span>'
    return f'<li>{head}<p>{meta["description"]}</p><p class="facts">{pill}{" · ".join(facts)}</p></li>'


class _Head(HTMLParser):
    """The title and the meta tags of a page."""

    def __init__(self):
        super().__init__()
        self.meta, self.in_title = {"title": ""}, False

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.in_title = tag == "title"
        if tag == "meta" and "name" in attrs:
            self.meta[attrs["name"]] = attrs.get("content") or ""

    def handle_data(self, data):
        if self.in_title:
            self.meta["title"] += data

    def handle_endtag(self, tag):
        self.in_title = False


def _meta(page: Path) -> dict[str, str]:
    head = _Head()
    head.feed(page.read_text(encoding="utf-8").split("<style>")[0])
    missing = {"description", "geofm:status", "geofm:parameters", "geofm:seconds", "geofm:ended"} - set(head.meta)
    if missing:
        raise ValueError(f"'{page}' was not made by this project (no {sorted(missing)[0]}); move it elsewhere.")
    return head.meta
