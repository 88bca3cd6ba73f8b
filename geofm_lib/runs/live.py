"""RUN/live.html: a page of a run that goes, made again every half minute by the launcher, in a thread of its own.

A page has no script, so it asks to be loaded again by itself. When the run has ended, its last one no longer does.
Ranks never make it, and the launcher's heartbeat never waits for it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from geofm_lib import files
from geofm_lib.jobs import owner
from geofm_lib.jobs.run_folder import LIVE, seconds
from geofm_lib.runs import overview
from geofm_lib.runs.curve import curve, templates
from geofm_lib.runs.run import Run

LINES = 12  # of the log
ENDED_S = 5.0  # the end of a run waits so long for a page that is being written


def every_s() -> float:
    """Seconds between two pages."""
    return max(1.0, seconds("GEOFM_LIVE_S", 30))


@contextmanager
def kept(run: Run, launch: str) -> Iterator[None]:
    """While this block runs, the page is made again and again; `launch` is the id of the folder's owner."""
    over = threading.Event()
    thread = threading.Thread(target=_keep, args=(run, launch, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(ENDED_S)


def _keep(run: Run, launch: str, over: threading.Event) -> None:
    with suppress(ValueError):  # GEOFM_LIVE_S is no number: no page, and the run goes on
        wait = every_s()
        while not owner.taken(run.folder, launch):
            write(run, wait)
            if over.wait(wait):
                return


def write(run: Run, again_s: float = 0.0) -> None:
    """Write the page as the run stands; `again_s`: it is made again in so many seconds, 0 of a run that has ended.

    A page never ends a run: what goes wrong here is no fault of it.
    """
    with suppress(Exception):
        files.write_text(run.folder / LIVE, page(run, again_s))


def page(run: Run, again_s: float = 0.0) -> str:
    """The page as HTML."""
    facts, summary = overview.facts(run), run.summary
    if not again_s:
        facts.pop("time left", None)
    status = "running" if again_s else summary.get("status", "killed")
    shown = {"memory": overview.memory(run), "ranks": run.resolved.get("ranks", "")}
    shown |= {"run by": run.owner.who if run.owner else "", "images": run.dataset}
    shown |= {"model": run.settings.get("model", ""), "strategy": run.settings.get("strategy", "")}
    return str(templates().get_template("live.html.j2").render(
        run=run, name=run.folder.name, status=status, again=round(again_s),
        progress=overview.progress(run, ended=not again_s),
        facts={name: text for name, text in (facts | shown).items() if text},
        why=str(summary.get("error") or summary.get("reason") or ""), curve=curve(run),
        log="\n".join(overview.last_lines(run, LINES)), made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
    ))  # fmt: skip
