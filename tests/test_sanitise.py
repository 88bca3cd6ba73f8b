"""No notebook makes a page do anything: attacks by every way into a page, looked at as text and in a browser."""

import base64
import json
import re
import urllib.parse
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

from geofm_lib.figures import ledger, plan, published
from geofm_lib.figures.display import Table
from geofm_lib.report import notebook_outputs
from geofm_lib.report.harmless import harmless
from geofm_lib.report.page import render, write_index
from geofm_lib.settings import ScalingSettings
from tests.conftest import need_browser
from tests.support import browser

DO = "window.hostile=1"
PAGE = base64.b64encode(b"<script>1</script>").decode()
ATTACKS = {
    "a handler without quotes": f"<img src=x onerror={DO}>",
    "a handler behind a slash": f"<svg/onload={DO}>",
    "a link": f"<a href='javascript:{DO}'>x</a>",
    "scripts in scripts": f"<scr<script></script>ipt>{DO}</scr<script></script>ipt>",
    "a link in capitals, with a tab and entities": f"<a href='JAVA&#x9;SCRIPT&colon;{DO}'>x</a>",
    "a link with a page in it": f"<a href='data:text/html,<script>{DO}</script>'>x</a>",
    "an image with a page in it": f"<img src='data:text/html;base64,{PAGE}'>",
    "an image from elsewhere": "<img src='https://geofm.invalid/a.png'>",
    "an unclosed tag": f"<img src=x onerror={DO} <b>",
    "a comment that ends early": f"<!--><img src=x onerror={DO}>-->",
    "a style with an address": "<p style='background:url(https://geofm.invalid/b.png)'>x</p>",
    "a style sheet": "<style>@import 'https://geofm.invalid/c.css';</style><link rel=stylesheet href=//geofm.invalid>",
    "frames": f"<iframe srcdoc='<script>parent.{DO}</script>'></iframe><object data='javascript:{DO}'></object>",
    "a form": f"<form action='javascript:{DO}'><input autofocus onfocus={DO}><button formaction='javascript:{DO}'>",
    "mathematics": f"<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror={DO}&gt;'>",
    "raw text": f"<noscript><p title='</noscript><img src=x onerror={DO}>'>",
    "the end of what it stands in": f"</pre></div></section></main></title></style><script>{DO}</script>",
    "the end of an attribute": f"\"'><script>{DO}</script><img src=x onerror={DO}>",
    "a meta tag": "<meta http-equiv=refresh content='0;url=https://geofm.invalid/e'><base href='https://geofm.invalid/'>",
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Found(HTMLParser):
    """The tags, handlers and addresses of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.handlers, self.addresses, self.styles = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.handlers += [name for name, _ in attributes if name.startswith("on") or name == "srcdoc"]
        self.addresses += [value or "" for name, value in attributes if name in ("href", "src", "action", "data")]
        self.styles += [value or "" for name, value in attributes if name == "style"]


def nothing_runs(text):
    found = Found(text)
    assert not found.tags & {"script", "iframe", "object", "embed", "link", "base", "form", "svg", "math"}
    assert not found.handlers
    # A drawing is an image, in which nothing runs; no character of it ends an attribute.
    images = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=\s]*|data:image/svg\+xml,[^\"<>&\s]*")
    bad = [each for each in found.addresses if ":" in each and not images.fullmatch(each)]
    assert not [each for each in bad if not re.match(r"https?://", each)]
    assert not [each for each in found.styles if "url" in each]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_leaves_nothing_that_runs(name):
    left = harmless(ATTACKS[name])
    nothing_runs(left)
    assert "geofm.invalid" not in left or "<" not in left


@pytest.fixture
def hostile(tmp_path):
    """The page of a notebook that attacks by every way into a page, and by each in every manner."""
    every = "\n\n".join(ATTACKS.values())
    drawing = f"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9' onload='{DO}'><script>{DO}</script></svg>"
    outputs = [
        *[new_output("display_data", data={"text/html": each}) for each in ATTACKS.values()],
        *[new_output("display_data", data={"text/markdown": each}) for each in ATTACKS.values()],
        new_output("display_data", data={"text/markdown": f"[x](javascript:{DO}) ![x](https://geofm.invalid/f.png)"}),
        new_output("display_data", data={"image/svg+xml": drawing}, metadata={"image/svg+xml": {"alt": every}}),
        new_output("display_data", data={"image/png": PIXEL}, metadata={"image/png": {"alt": every, "width": every}}),
        new_output("display_data", data={"image/png": PIXEL + every}),
        new_output("display_data", data={"text/plain": every}),
        new_output("display_data", data={"application/javascript": DO, "text/plain": "x"}),
        new_output("stream", name="stdout", text=every),
        new_output("error", ename=every, evalue=every, traceback=[every]),
    ]
    cells = [
        new_markdown_cell(f"# Is it {' '.join(ATTACKS.values())}?\n\n{every}"),
        new_markdown_cell(f"{every}\n\n[x](javascript:{DO}) <javascript:{DO}>\n\n```{every}\n{every}\n```"),
        new_raw_cell(every, metadata={"raw_mimetype": "text/html"}),
        new_code_cell(every, id="run", outputs=outputs, execution_count=1),
    ]
    notebook = new_notebook(cells=cells, metadata={"language_info": {"name": every, "pygments_lexer": every}})
    nbformat.write(notebook, tmp_path / "n.ipynb")
    (tmp_path / "execution.json").write_text(json.dumps({"status": "failed", "error": every}))
    render(tmp_path / "n.ipynb", tmp_path / "pages" / "02_x.html")
    write_index(tmp_path / "pages")
    return tmp_path / "pages"


def test_a_hostile_notebook_makes_harmless_pages(hostile):
    for page in ("02_x.html", "index.html"):
        nothing_runs((hostile / page).read_text())


@pytest.mark.browser
def test_nothing_of_a_hostile_notebook_runs_in_a_browser(hostile, tmp_path):
    need_browser()
    driver = browser.start(tmp_path / "profile")
    try:
        for page in ("02_x.html", "index.html"):
            driver.get_log("performance")
            driver.get((hostile / page).as_uri())
            ran = "return [window.hostile === undefined, document.querySelectorAll('script, iframe, svg').length]"
            assert driver.execute_script(ran) == [True, 0]
            for link in driver.execute_script("return [...document.links].map(link => link.protocol)"):
                assert link in ("file:", "http:", "https:")
            driver.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
            asked = [
                each["message"] for each in driver.get_log("performance") if "requestWillBeSent" in each["message"]
            ]
            assert asked
            assert not [each for each in asked if "geofm.invalid" in each]
    finally:
        driver.quit()


def text_and_tags(markup):
    """Without what a parser writes in another way: spaces, quotes, the last semicolon of a style, a table's body."""
    return re.sub(r"\s+|;(?=')|</?tbody>", "", markup.replace('"', "'"))


def test_what_is_ours_survives_whole():
    wide = Table(pd.DataFrame({"name": ["a", "b & c"], "value": [1.5, 20_000]}), "A <caption>")
    for shown in (wide, ledger.of_kind(None, "finding"), plan.form(ScalingSettings()).table(), ScalingSettings()):
        markup = shown._repr_html_()
        assert text_and_tags(harmless(markup)) == text_and_tags(markup)


def test_a_figure_its_folded_numbers_and_a_forms_still_form_are_on_the_page(tmp_path):
    data, metadata = published.scaling("ViT-3B")._repr_mimebundle_()
    numbers = "<details><summary>The numbers of this figure</summary><table><tr><td>1</td></tr></table></details>"
    outputs = [
        new_output("display_data", data=data, metadata=metadata),
        new_output("display_data", data={"text/html": numbers}),
        new_output("display_data", data=plan.form(ScalingSettings(model="ViT-3B"))._repr_mimebundle_()),
    ]
    code = new_code_cell("x", id="run", outputs=outputs, execution_count=1)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Is it there?"), code]), tmp_path / "n.ipynb")
    text = render(tmp_path / "n.ipynb", tmp_path / "report.html").read_text()
    for drawn in (data["image/svg+xml"], metadata["image/svg+xml"]["narrow"]):
        assert urllib.parse.quote(drawn, safe=notebook_outputs.SVG_SAFE) in text
    assert text_and_tags(numbers) in text_and_tags(text)
    assert "In JupyterLab this is a form" in text
    assert "FULL_SHARD" in text
