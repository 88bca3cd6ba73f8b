"""HTML for a page, which runs nothing and asks no network: bleach keeps what is listed here, and no other."""

import base64
import html
import re

from bleach.css_sanitizer import CSSSanitizer
from bleach.sanitizer import Cleaner

from geofm_lib.report import foreign, mathematics

TAGS = set(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 "
    "hr i img kbd li mark ol p pre q s small span strong sub summary sup table tbody td tfoot th thead tr u ul".split()
)
ATTRIBUTES = {
    "*": {"class", "style", "title"},
    "a": {"href"},
    "details": {"open"},
    "img": {"src", "alt", "width", "height"},
    "ol": {"start"},
    "td": {"colspan", "rowspan", "data-label"},
    "th": {"colspan", "rowspan"},
}
STYLES = ("text-align", "vertical-align", "white-space", "font-weight", "font-style", "color", "background-color",
          "width", "min-width")  # fmt: skip
# Addresses: the web or a file beside the page; of images only what is inside the page.
ADDRESSES = {
    "href": re.compile(r"https?://.*|[^:]*", re.IGNORECASE | re.DOTALL),
    "src": re.compile(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]*"),
}
IMAGE = re.compile(r'<img((?: [\w-]+="[^"]*")*)>')  # as bleach writes it
# Their text would be left as words. What is harmful is bleach's to find, whatever this leaves.
UNREADABLE = re.compile(r"<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)


def harmless(markup: str) -> str:
    """The markup with the listed tags, attributes, styles and addresses only; marked mathematics is drawn.

    >>> harmless("<p onclick='x()'>a <a href='javascript:x()'>b</a><img src=x onerror=x()></p><script>x()</script>")
    '<p>a <a>b</a><em>(an image that is not in this page)</em></p>'
    """
    drawn = foreign.DRAWING.sub(lambda found: _drawing(found[0]), markup)
    clean = CLEANER.clean(UNREADABLE.sub("", drawn))
    return mathematics.translated(IMAGE.sub(lambda found: found[0] if ' src="' in found[1] else _gone(found[1]), clean))


def _gone(attributes: str) -> str:
    """Words in place of an image whose address was taken away."""
    alt = re.search(r' alt="([^"]+)"', attributes)
    return f"<em>(an image that is not in this page{': ' + html.escape(html.unescape(alt[1])) if alt else ''})</em>"


def _drawing(svg: str) -> str:
    """A drawing among HTML as an image, in which nothing runs."""
    if "xmlns=" not in svg.split(">")[0]:
        svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f'<img alt="a drawing" src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}">'


def _allowed(tag: str, name: str, value: str) -> bool:
    if name not in ATTRIBUTES["*"] | ATTRIBUTES.get(tag, set()):
        return False
    return name not in ADDRESSES or bool(ADDRESSES[name].fullmatch(html.unescape(value).strip()))


CLEANER = Cleaner(TAGS, _allowed, {"http", "https", "data"}, strip=True, css_sanitizer=CSSSanitizer(STYLES))
