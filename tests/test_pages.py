"""The page checker, on a small real report and on a page with every fault it looks for."""

import json
import urllib.parse

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from geofm_lib.figures import ledger, published
from geofm_lib.figures.display import Table
from geofm_lib.report.page import render, write_index
from tests.conftest import need_browser
from tests.support import browser, browser_pages

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def installed():
    need_browser()


def test_a_report_and_its_index_fit_a_phone_and_need_nothing_else(tmp_path):
    data, metadata = published.scaling("ViT-3B")._repr_mimebundle_()
    wide = Table(pd.DataFrame({f"a rather long column name {i}": [i] for i in range(30)}))
    outputs = [
        new_output("display_data", data=data, metadata=metadata),
        new_output("display_data", data={"text/html": wide._repr_html_()}),
        new_output("display_data", data={"text/html": ledger.of_kind(None, "finding")._repr_html_()}),
        new_output("stream", name="stdout", text="x" * 5000),
        new_output("error", ename="RunFailed", evalue="/a/long/path" * 40, traceback=["y" * 500]),
    ]
    cells = [new_markdown_cell("# Does it fit?\n\nYes.\n\n## A section\n\n### Below"),
             new_code_cell("x = " + "1 + " * 200 + "1", id="run", outputs=outputs, execution_count=1)]  # fmt: skip
    nbformat.write(new_notebook(cells=cells), tmp_path / "n.ipynb")
    (tmp_path / "execution.json").write_text(json.dumps({"error": "z" * 300}))
    render(tmp_path / "n.ipynb", tmp_path / "pages" / "02_x.html")
    write_index(tmp_path / "pages")
    faults = browser_pages.check(tmp_path / "pages")
    assert [each for each in faults if "no place for #" not in each] == [], "the ledger's links lead to sections of 06"


def test_every_fault_is_found(tmp_path):
    (tmp_path / "bad.html").write_text(
        "<!DOCTYPE html><html><h2>No title</h2><h4>gap</h4><script>1</script><div style='width:2000px'>wide</div>"
        "<img src='https://geofm.invalid/a.png' alt='remote'><img src='data:image/png;base64,AAAA'>" + "x " * 250_000
    )
    found = "\n".join(browser_pages.check(tmp_path))
    for fault in ("bytes, over", "<script>", "no lang", "no alt text", "not decoded", "0 h1", "follows a gap",
                  "no title", "pixels wide in a window of 390", "asks for https://geofm.invalid/a.png"):  # fmt: skip
        assert fault in found, fault
    figure = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 720 9'><style>.a{font-size:8px}</style></svg>"
    (tmp_path / "bad.html").write_text(
        "<!DOCTYPE html><html lang='en'><meta name='viewport' content='width=device-width'><title>t</title>"
        "<body style='background: #fff; color: #999; margin: 0'><main><h1>Is it?</h1>"
        + "<h2>a</h2>" * 6 + "<p>pale</p><a href='#nowhere'>x</a><figure><figcaption>Nice</figcaption></figure>"
        + "<figure id='figure-1' style='margin: 0'><img style='width: 350px' alt='a figure' src=\"data:image/svg+xml,"
        + urllib.parse.quote(figure) + "\"><figcaption>Figure 1. A line.</figcaption></figure>"
        + "<div style='overflow: hidden; width: 300px'><p style='width: 900px'>boxed</p></div></main></body></html>"
    )  # fmt: skip
    found = "\n".join(browser_pages.check(tmp_path / "bad.html"))
    for fault in ("without a numbered caption: Nice", "without an anchor: Nice", "no contents on a long page",
                  "no place for #nowhere", "words of 3.9 pixels in a figure", "contrast 2.8"):  # fmt: skip
        assert fault in found, (fault, found)
    assert "sticks out" not in found and "Figure 1" not in found
    (tmp_path / "empty").mkdir()
    assert "no pages" in browser_pages.check(tmp_path / "empty")[0]


ASKS = """<!DOCTYPE html><html lang="en"><title>asks</title><h1>asks</h1>
<style>@import "https://geofm.invalid/style.css"; h1 {background: url(https://geofm.invalid/background.png)}</style>
<iframe src="https://geofm.invalid/frame.html"></iframe><img alt="a file" src="beside.png">
<img alt="inlined" src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><link rel="icon" href="https://geofm.invalid/i.ico">"""


def test_every_way_to_ask_the_network_is_found_and_what_is_inlined_is_not(tmp_path):
    (tmp_path / "asks.html").write_text(ASKS)
    found = [fault for fault in browser_pages.check(tmp_path) if "asks for" in fault]
    for name in ("geofm.invalid/style.css", "geofm.invalid/background.png", "geofm.invalid/frame.html", "/beside.png"):
        assert any(name in fault for fault in found), (name, found)
    assert not any("data:" in fault for fault in found)


def sent(document, url):
    return {"method": "Network.requestWillBeSent", "params": {"documentURL": document, "request": {"url": url}}}


def test_what_the_browser_asks_for_itself_is_not_the_page_s():
    tab, page = "chrome://new-tab-page/", "file:///r/02.html"
    events = [sent(tab, "chrome-untrusted://new-tab-page/one-google-bar?paramsencoded="), sent(tab, tab),
              sent("chrome-untrusted://new-tab-page/", "https://www.gstatic.com/og/_/js/k=og"),
              {"method": "Network.dataReceived", "params": {}}, sent(page, page),
              sent(page, "data:image/png;base64,AAAA"), sent(page, "https://geofm.invalid/a.png"),
              sent("https://geofm.invalid/frame.html", "https://geofm.invalid/frame.html")]  # fmt: skip
    assert browser_pages.page_requests(events) == [
        page,
        "https://geofm.invalid/a.png",
        "https://geofm.invalid/frame.html",
    ]


def test_the_browser_is_named_or_the_fix_is(monkeypatch):
    monkeypatch.setenv("GEOFM_TEST_BROWSER", "no-such-browser")
    assert "GEOFM_TEST_BROWSER" in browser.missing()
    assert "apt install chromium chromium-driver" in browser.missing()
