"""Notebooks as a person uses them: in JupyterLab, in a browser. Open, Run All, watch, run a cell again, interrupt 02;
close the browser and open it again, or another notebook on the same run; change a control of 04's form.

A real JupyterLab server (its own port, token and folders) and a real browser by selenium. What is clicked is
Lumino's menu, by command name; what is read is the page.
"""

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import urllib.request

import nbformat
import psutil
import pytest

from geofm_lib.runs import results
from tests.conftest import ROOT, need_browser
from tests.support import browser as browsers
from tests.support.runs import ranks_of
from tests.support.timing import scaled, wait_for

pytest.importorskip("selenium.webdriver")

from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

pytestmark = [pytest.mark.browser, pytest.mark.timeout(420)]

SMALL = {"images_per_class": 8, "model": "ViT-Atto", "image_size": 32, "global_batch": 16, "warmup_epochs": 0.5,
         "ranks": 2, "device": "cpu", "log_every": 1, "checkpoint_every": 20}  # fmt: skip
OVERRIDES = {  # no questions on top of the page, and every cell in the page rather than only the visible ones
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server: {"url", "token", "folder" (its files), "runs"}. Ended with its kernels afterwards."""
    need_browser()
    pytest.importorskip("jupyterlab")
    home = tmp_path_factory.mktemp("lab")
    for name in ("files", "settings", "config", "runtime", "data", "ipython"):
        (home / name).mkdir()
    (home / "settings" / "overrides.json").write_text(json.dumps(OVERRIDES))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    runs = home / "files" / "runs"  # as in a clone
    own = {"JUPYTER_CONFIG_DIR": home / "config", "JUPYTER_RUNTIME_DIR": home / "runtime", "GEOFM_RUNS": runs,
           "JUPYTER_DATA_DIR": home / "data", "IPYTHONDIR": home / "ipython", "PYTHONPATH": ROOT,
           "GEOFM_LIVE_S": 2}  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
               f"--ServerApp.root_dir={home / 'files'}",
               f"--LabApp.app_settings_dir={home / 'settings'}", "--LabApp.extension_manager=readonly"]  # fmt: skip
    with open(home / "server.log", "wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **{k: str(v) for k, v in own.items()}}, stdout=log,
                                  stderr=log, stdin=subprocess.DEVNULL, cwd=home, start_new_session=True)  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        wait(lambda: answers(f"{url}/api?token={token}"), 60, "JupyterLab did not start", home / "server.log")
        yield {"url": url, "token": token, "folder": home / "files", "runs": runs}
    finally:
        family = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(scaled(10))
        for process in [*family, *ranks_of(home)]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if server.poll() is None:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def browser(lab, tmp_path_factory):
    driver = browsers.start(tmp_path_factory.mktemp("profile"), "--window-size=1400,1600")
    yield driver
    driver.quit()


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=scaled(5)) as answer:
            return answer.status == 200
    except OSError:
        return False


def kernel_state(lab, notebook):
    """What the server says of a notebook's kernel: starting, idle, busy; None while it has none."""
    with urllib.request.urlopen(f"{lab['url']}/api/sessions?token={lab['token']}", timeout=scaled(10)) as answer:
        return {each["path"]: each["kernel"]["execution_state"] for each in json.load(answer)}.get(notebook)


def wait(condition, seconds, message, log=None):
    """`wait_for` on a page that changes meanwhile; the error has the end of `log`."""

    def settled():
        with contextlib.suppress(StaleElementReferenceException):
            return condition()

    def tail():
        return log.read_text(errors="replace")[-3000:] if log and log.exists() else ""

    return wait_for(settled, seconds, message, tail)


class Page:
    """A notebook open in JupyterLab, its cells found by the ids of the notebook file."""

    def __init__(self, browser, lab, name, source="02_pretrain", of="", **values):
        notebook = nbformat.read(ROOT / "notebooks" / f"{source}.ipynb", as_version=4)
        self.ids = [cell.id for cell in notebook.cells]
        self.run_dir = lab["runs"] / (of or name)
        cell = notebook.cells[self.ids.index("parameters")]
        if source == "02_pretrain":
            values = {**SMALL, **values, "run_dir": str(self.run_dir)}
        for setting, value in values.items():
            # As a person does: edit the value in its line of the parameters cell.
            line = rf"(?m)^({setting}: \w+ = )[^#\n]*"
            cell.source, count = re.subn(line, rf"\g<1>{json.dumps(value)}  ", cell.source)
            assert count == 1, f"the parameters cell has no line for {setting}"
        nbformat.write(notebook, lab["folder"] / f"{name}.ipynb")
        self.browser, self.file = browser, lab["folder"] / f"{name}.ipynb"
        self.url = f"{lab['url']}/lab/tree/{name}.ipynb?token={lab['token']}&reset"
        self.open()
        wait(lambda: kernel_state(lab, f"{name}.ipynb") == "idle", 120, "the kernel did not start")

    def open(self):
        self.browser.get(self.url)
        wait(lambda: len(self.cells()) == len(self.ids), 90, "the notebook did not open")

    def cells(self):
        return self.browser.find_elements(By.CSS_SELECTOR, ".jp-MainAreaWidget:not(.lm-mod-hidden) .jp-Cell")

    def cell(self, name):
        return self.cells()[self.ids.index(name)]

    def menu(self, title, command):
        """Click a command of the menu bar."""
        path = f"//li[contains(@class,'lm-MenuBar-item')][.//*[text()='{title}']]"

        def clicked():
            with contextlib.suppress(WebDriverException):
                self.browser.find_element(By.XPATH, path).click()
                self.browser.find_element(By.CSS_SELECTOR, f".lm-Menu-item[data-command='{command}']").click()
                return True
            self.browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)

        wait(clicked, 30, f"no {title} menu with {command}")

    def run_all(self):
        self.menu("Run", "runmenu:run-all")
        wait(lambda: self.prompt("run").strip("[ ]:"), 30, "Run All did nothing")

    def run(self, name):
        """Run one cell as Shift-Enter does, and wait for its turn to come."""
        before = self.prompt(name)
        cell = self.cell(name)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", cell)
        cell.find_element(By.CSS_SELECTOR, ".jp-InputPrompt").click()
        self.browser.switch_to.active_element.send_keys(Keys.SHIFT, Keys.ENTER)
        wait(lambda: self.prompt(name) != before, 30, f"cell '{name}' did not run")

    def prompt(self, name):
        """`[*]:` while a cell runs or waits, then its number."""
        return self.cell(name).find_element(By.CSS_SELECTOR, ".jp-InputPrompt").text

    def output(self, name):
        return "\n".join(each.text for each in self.cell(name).find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output"))

    def errors(self):
        """Texts of the error outputs on the page (JupyterLab shows them, like stderr, under either type)."""
        kinds = ("error", "stderr")
        chosen = ", ".join(f"[data-mime-type='application/vnd.jupyter.{kind}']" for kind in kinds)
        return [each.text for each in self.browser.find_elements(By.CSS_SELECTOR, chosen) if each.is_displayed()]

    def progress(self, seconds=180):
        """The progress line, once it shows a step while the cell is still running."""

        def live():
            assert not self.errors(), self.errors()
            shown = re.search(r"pretrain: step \d+.*", self.output("run"))
            return shown.group() if shown and "*" in self.prompt("run") else None

        return wait(live, seconds, "no live progress", self.run_dir / "log.txt")

    def steps(self):
        """The steps logged so far."""
        return [json.loads(line)["step"] for line in (self.run_dir / "metrics.jsonl").read_text().splitlines()]

    def status(self):
        summary = self.run_dir / "summary.json"
        return json.loads(summary.read_text())["status"] if summary.exists() else "running"


def test_run_all_shows_progress_and_figures_and_the_settings_cell_runs_again(browser, lab):
    page = Page(browser, lab, "short", epochs=30)
    page.run_all()
    line = page.progress()
    assert re.search(r"step \d+/\d+", line)
    assert "loss" in line
    assert "images/s" in line
    assert "left" in line
    wait(lambda: re.search(r"\d", page.prompt("colophon")) or page.errors(), 240, "Run All did not end")
    assert not page.errors()
    assert page.status() == "finished"
    assert not page.cell("run").find_elements(By.TAG_NAME, "img"), "the curve while training has gone"
    pictures = browser.find_elements(By.CSS_SELECTOR, ".jp-Notebook .jp-OutputArea-output img")
    assert pictures
    assert all(browser.execute_script("return arguments[0].naturalWidth", each) > 100 for each in pictures)

    page.run("settings")
    wait(lambda: "*" not in page.prompt("settings"), 60, "the settings cell did not end")
    page.run("run")
    wait(lambda: "*" not in page.prompt("run"), 60, "reading the finished run took long")
    assert not page.errors()
    assert "finished before" in page.output("run")


def test_interrupting_the_kernel_stops_the_ranks_with_a_checkpoint_and_running_again_goes_on(browser, lab):
    page = Page(browser, lab, "long", epochs=20_000)
    page.run_all()
    page.progress()
    assert len(ranks_of(page.run_dir)) == 2
    page.menu("Kernel", "kernelmenu:interrupt")
    wait(lambda: not ranks_of(page.run_dir), 30, "ranks still run after the interrupt", page.run_dir / "log.txt")
    wait(lambda: page.errors(), 30, "the cell did not say that the run stopped")
    assert "stopped" in page.errors()[0]
    assert "Run this cell again" in page.errors()[0]
    assert page.status() == "stopped"
    assert any((page.run_dir / "checkpoint").iterdir())
    reached = page.steps()[-1]

    page.run("run")
    wait(lambda: page.steps()[-1] > reached, 120, "it did not go on", page.run_dir / "log.txt")
    page.progress()
    page.menu("Kernel", "kernelmenu:interrupt")
    wait(lambda: not ranks_of(page.run_dir), 30, "ranks still run after the second interrupt")
    assert page.steps() == list(range(1, page.steps()[-1] + 1)), "every step once: it went on where it had stopped"


def shown_step(page):
    """The last step that the run's cell shows, 0 if none."""
    return max(map(int, re.findall(r"pretrain: step (\d+)", page.output("run"))), default=0)


def curve(page):
    """Is a curve drawn in the run's cell?"""
    found = page.cell("run").find_elements(By.CSS_SELECTOR, "[data-geofm] img")
    return len(found) == 1 and page.browser.execute_script("return arguments[0].naturalWidth", found[0]) > 100


@pytest.mark.long
def test_a_browser_that_was_closed_shows_the_run_again_and_stops_it(browser, lab):
    page = Page(browser, lab, "again", epochs=20_000)
    page.run_all()
    page.progress()
    wait(lambda: curve(page), 30, "no curve while training")
    page.menu("File", "docmanager:save")  # JupyterLab does so by itself every 10 s
    wait(lambda: "data-geofm" in page.file.read_text(), 20, "the notebook was not saved")
    ours, theirs = (file.read_text() for file in (ROOT / "notebooks" / "02_pretrain.ipynb", page.file))
    assert results._cells(ours) == results._cells(theirs), "which is no `+changes` of a commit"
    claims = list((page.run_dir / "owners").iterdir())
    browser.get("about:blank")
    reached = page.steps()[-1]
    page.open()
    assert "epochs: int = 20000" in page.cell("parameters").text, "its own settings"
    wait(lambda: shown_step(page) > reached, 10, "the notebook that was opened again shows no progress")
    assert curve(page)
    assert list((page.run_dir / "owners").iterdir()) == claims, "nothing was started"
    page.menu("Kernel", "kernelmenu:interrupt")
    wait(lambda: not ranks_of(page.run_dir), 30, "ranks still run after the interrupt", page.run_dir / "log.txt")
    wait(lambda: page.status() == "stopped", 20, "no stop with a checkpoint")
    reached = page.steps()[-1]
    wait(lambda: kernel_state(lab, "again.ipynb") == "idle", 30, "the cell did not end")  # it drops what comes before
    page.run_all()
    wait(lambda: page.steps()[-1] > reached, 120, "Run All did not go on", page.run_dir / "log.txt")

    other = Page(browser, lab, "other", of="again", epochs=20_000)  # another notebook and kernel, the same settings
    claims = list((page.run_dir / "owners").iterdir())
    other.run_all()
    wait(lambda: shown_step(other), 10, "the notebook that follows shows no progress")
    wait(lambda: curve(other), 10, "nor a curve")
    assert "is being run by" in other.output("run")
    assert list((page.run_dir / "owners").iterdir()) == claims, "it starts nothing"
    other.menu("Kernel", "kernelmenu:interrupt")
    wait(lambda: not ranks_of(page.run_dir), 30, "ranks still run after the interrupt of who follows")
    wait(lambda: other.errors(), 30, "the cell did not say that the run stopped")
    assert "a stop was asked for; saved at step" in other.errors()[0]
    assert page.steps() == list(range(1, page.steps()[-1] + 1))


@pytest.mark.long
def test_the_form_over_the_plan_answers_at_every_change(browser, lab):
    page = Page(browser, lab, "planned", "04_scaling", model="ViT-Huge")
    for name in ("parameters", "settings", "published", "planned"):  # the third imports the figures
        page.run(name)
        wait(lambda name=name: re.search(r"\d", page.prompt(name)), 60, f"cell '{name}' did not end")
    wait(lambda: "8 nodes of frontier" in page.output("planned"), 60, "the form shows no plan")
    assert "JupyterLab" not in page.output("planned"), "the form stands in place of the still table"
    labelled = ".//div[contains(@class,'jupyter-widgets')][label[normalize-space()='{}']]//{}"
    nodes = page.cell("planned").find_element(By.XPATH, labelled.format("nodes", "input"))
    for typed, said in (("-2", "nodes must be a whole number from 1 on; -2 was given"), ("1", "1 nodes of frontier")):
        nodes.send_keys(Keys.CONTROL + "a")
        nodes.send_keys(typed + Keys.TAB)
        wait(lambda said=said: said in page.output("planned"), 30, f"'{typed}' was not answered by '{said}'")
    model = page.cell("planned").find_element(By.XPATH, labelled.format("model", "select"))
    Select(model).select_by_visible_text("ViT-15B")
    wait(lambda: "ViT-15B, MAE pretraining" in page.output("planned"), 30, "another model was not answered")
    assert not page.errors()
