"""The one place that chooses the browser of the tests and starts it.

It is the first of BROWSERS on the PATH with `chromedriver`, or the two programs that GEOFM_TEST_BROWSER and
GEOFM_TEST_DRIVER name. The driver must be of the browser's version.
"""

import os
import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage")  # fmt: skip


def programs() -> tuple[str | None, str | None]:
    """The paths of the browser and of its driver; None for what is not there."""
    browsers = [os.environ["GEOFM_TEST_BROWSER"]] if "GEOFM_TEST_BROWSER" in os.environ else BROWSERS
    driver = shutil.which(os.environ.get("GEOFM_TEST_DRIVER", "chromedriver"))
    return next(filter(None, map(shutil.which, browsers)), None), driver


def missing() -> str:
    """Why no browser can be started, with the fix; empty when one can."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed: pip install -e '.[test]'"
    browser, driver = programs()
    absent = [name for name, path in ((" or ".join(BROWSERS), browser), ("chromedriver", driver)) if path is None]
    fix = "apt install chromium chromium-driver, or name both by GEOFM_TEST_BROWSER and GEOFM_TEST_DRIVER"
    return f"no {' and no '.join(absent)}: {fix}" if absent else ""


def start(profile, *flags: str):
    """A headless browser with a new profile in this folder, which keeps a log of its requests; `quit()` ends it."""
    from selenium import webdriver

    binary, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
