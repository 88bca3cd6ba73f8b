"""HTML without behaviour: all that an output or a Markdown cell may put on a page.

A page has its own style, asks no network and runs nothing. bleach keeps what is listed here and drops the rest.
"""

import html
import re

from bleach.css_sanitizer import CSSSanitizer
from bleach.sanitizer import Cleaner

TAGS = set(
    """
    a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr
    i img kbd li mark ol p pre q s small span strong sub summary sup table tbody td tfoot th thead tr u ul
""".split()
)
ATTRIBUTES = {
    "*": {"class", "style", "title"},
    "a": {"href"},
    "details": {"open"},
    "img": {"src", "alt", "width", "height"},
    "ol": {"start"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan"},
}
STYLES = ("text-align", "vertical-align", "white-space", "font-weight", "font-style", "color", "background-color",
          "width", "min-width")  # fmt: skip
# Addresses: the web or a file beside the page; of images only what is inside the page.
ADDRESSES = {
    "href": re.compile(r"https?://.*|[^:]*", re.IGNORECASE | re.DOTALL),
    "src": re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=\s]*"),
}
# Their text would be left as words. What is harmful is bleach's to find, whatever this leaves.
UNREADABLE = re.compile(r"<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)


def harmless(markup: str) -> str:
    """The markup with the listed tags, attributes, styles and addresses only.

    >>> harmless("<p onclick='x()'>a <a href='javascript:x()'>b</a><img src=x onerror=x()></p><script>x()</script>")
    '<p>a <a>b</a><img></p>'
    """
    return CLEANER.clean(UNREADABLE.sub("", markup))


def _allowed(tag: str, name: str, value: str) -> bool:
    if name not in ATTRIBUTES["*"] and name not in ATTRIBUTES.get(tag, ()):
        return False
    address = ADDRESSES.get(name)
    return address is None or bool(address.fullmatch(html.unescape(value).strip()))


CLEANER = Cleaner(
    tags=TAGS,
    attributes=_allowed,
    protocols={"http", "https", "data"},
    strip=True,
    css_sanitizer=CSSSanitizer(allowed_css_properties=STYLES),
)
