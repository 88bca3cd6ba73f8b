"""Looks at pages in a real browser: `python -m tests.support.browser_pages reports/` (exit code 1 if one is bad).

A good page needs nothing but its own file, is below 500 KB, describes and decodes every image, has one h1 and
headings without gaps, and never scrolls sideways, on a phone or on a large screen. Each figure and table has a numbered
caption and an anchor, a long page contents whose links lead somewhere. On a phone no word in a figure is smaller than 9
pixels and nothing sticks out; in light and dark every text has a contrast of at least 4.5.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

from tests.support import browser

LIMIT_BYTES = 500_000
WIDTHS = (390, 1280)  # a phone and a large screen, in CSS pixels
SMALLEST_PX, CONTRAST = 9.0, 4.5
SETTLE_S = 60  # for the pictures of a window's width; a busy machine needs seconds
LONG = 6  # headings of the second level from which on a page has contents
CHECKS = (Path(__file__).parent / "browser_pages.js").read_text()
# What a browser asks for itself, and what stands in the page's own file.
OWN_SCHEMES = ("chrome:", "chrome-untrusted:", "chrome-extension:", "devtools:", "edge:")
INLINED = ("data:", "blob:", "about:")


def check(path) -> list[str]:
    """Everything wrong with a page, or with each page of a folder (and below it); an empty list if all is well."""
    path = Path(path)
    pages = sorted(path.rglob("*.html")) if path.is_dir() else [path]
    if not pages:
        return [f"{path}: no pages"]
    with tempfile.TemporaryDirectory() as profile:
        driver = browser.start(profile, "--hide-scrollbars")
        try:
            return [f"{page}: {fault}" for page in pages for fault in _in_file(page) + _in_browser(driver, page)]
        finally:
            driver.quit()


def _in_file(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    faults = [] if page.stat().st_size < LIMIT_BYTES else [f"{page.stat().st_size} bytes, over {LIMIT_BYTES}"]
    faults += ["holds a <script>"] if re.search(r"<script\b", text, re.IGNORECASE) else []
    faults += ["has no lang"] if not re.search(r"<html[^>]* lang=", text) else []
    return faults


def _in_browser(driver, page: Path) -> list[str]:
    from selenium.webdriver.support.ui import WebDriverWait  # not at the top: tests without a browser skip

    url = page.resolve().as_uri()
    driver.get_log("performance")  # drop what came before
    driver.get(url)
    driver.execute_script("document.querySelectorAll('details').forEach(box => box.open = true)")
    images, headings, title = driver.execute_script("""
        const decoded = image => image.complete && image.naturalWidth > 0;
        return [[...document.images].map(image => [image.alt.trim(), decoded(image)]),
                [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1]), document.title];""")
    faults = [f"image {i} has no alt text" for i, (alt, _) in enumerate(images) if not alt]
    faults += [f"image {i} is not decoded" for i, (_, decoded) in enumerate(images) if not decoded]
    faults += [] if headings.count(1) == 1 else [f"{headings.count(1)} h1 headings"]
    gaps = [b for a, b in zip(headings, headings[1:], strict=False) if b > a + 1]
    faults += [f"a heading of level {gaps[0]} follows a gap"] if gaps else []
    faults += [] if title.strip() else ["no title"]
    faults += _asked(driver, "parts", LONG)
    for width in WIDTHS:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        WebDriverWait(driver, SETTLE_S).until(lambda _: _asked(driver, "settled"))
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        faults += [f"{wide} pixels wide in a window of {width}"] if wide > width else []
        faults += _asked(driver, "sides")
        if width < 500:
            faults += _asked(driver, "words", SMALLEST_PX)
    for look in ("light", "dark"):
        chosen = {"features": [{"name": "prefers-color-scheme", "value": look}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", chosen)
        faults += [f"{fault} in {look}" for fault in _asked(driver, "colours", CONTRAST)]
    return faults + [f"asks for {asked[:120]}" for asked in page_requests(_events(driver)) if asked != url]


def _asked(driver, name: str, *limits: float) -> list[str]:
    """What a function of browser_pages.js finds on the page that is open."""
    return driver.execute_script(f"{CHECKS}\nreturn {name}(...arguments);", *limits)


def page_requests(events: list[dict]) -> list[str]:
    """Every address that documents of the page asked for, in order, by the browser's `Network` events.

    The browser's own documents (a new tab) and what is inlined in the page do not count.
    """
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [(each["documentURL"], each["request"]["url"]) for each in sent]
    ours = [url for document, url in asked if not document.startswith(OWN_SCHEMES)]
    return [url for url in ours if not url.startswith(OWN_SCHEMES + INLINED)]


def _events(driver) -> list[dict]:
    return [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]


if __name__ == "__main__":
    found = [fault for argument in sys.argv[1:] or ["reports"] for fault in check(argument)]
    print("\n".join(found) or "every page is self-contained, described and fits")
    sys.exit(bool(found))
