"""A figure as SVG of a third of matplotlib's bytes: pages hold two of each, and each page stays below 500 KB.

No kept library does this: svgo needs node, scour has had no release since 2020.
"""

import io
import re
from string import ascii_lowercase
from xml.etree import ElementTree

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.ticker import FuncFormatter, LogFormatter, LogFormatterSciNotation

from geofm_lib.catalog.metrics import number

DPI = 100  # of what is drawn as pixels inside
MANY = 1000  # marks of all scatters; more are drawn as pixels, since each would be a line of SVG
NAMESPACE = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
FONTS = "DejaVu Sans,Verdana,sans-serif"  # Verdana has the same widths
NOT_DRAWN = {f"{{{NAMESPACE}}}metadata", f"{{{NAMESPACE}}}style"}
TICKS = {f"{{{NAMESPACE}}}{name}" for name in ("use", "text", "defs")}
PLACES = ("d", "x", "y", "x1", "x2", "y1", "y2", "transform", "points", "width", "height")  # attributes
DECIMALS = re.compile(r"(\d*\.\d)\d+")
TAG = re.compile(r"<[^>]*>")
ZEROS = re.compile(r"(\.\d*?)0+(?!\d)")
SPACES = re.compile(r"\s*([A-Za-z,;:()])\s*")
NO_TURN = re.compile(r"rotate\(-?0 .*?\)")
REFERENCE = re.compile(r"#(\w+)")
ElementTree.register_namespace("", NAMESPACE)


def drawn(figure: matplotlib.figure.Figure) -> bytes:
    """The figure as SVG whose texts are text, the same bytes for the same figure."""
    scatters = [each for each in figure.findobj() if isinstance(each, PathCollection)]
    many = sum(np.shape(marks.get_offsets())[0] for marks in scatters) > MANY
    for marks in scatters:
        marks.set_rasterized(many)
    for axis in (each for ax in figure.axes for each in (ax.xaxis, ax.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatterSciNotation):
            axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))  # an exponent is too small to read
        if isinstance(axis.get_minor_formatter(), LogFormatterSciNotation):
            axis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "geofm"}):
        figure.savefig(buffer, format="svg", dpi=DPI, metadata=nothing)
    return compact(buffer.getvalue())


def compact(text: str) -> bytes:
    """matplotlib's SVG without groups that only name things, its styles as classes, places to a tenth of a point."""
    root = ElementTree.fromstring(text)
    _flatten(root)
    _join(root)
    _dress(root)
    names = {name: _letters(k) for k, name in enumerate(dict.fromkeys(REFERENCE.findall(text)))}
    classes: dict[str, str] = {}
    for element in root.iter():
        found = element.attrib
        if LINK in found:
            found["href"] = found.pop(LINK)
        for name in [each for each in PLACES if each in found and element is not root]:
            found[name] = _short(found[name])
        for name in [each for each in ("href", "clip-path") if not found.get(each, "data:").startswith("data:")]:
            found[name] = REFERENCE.sub(lambda hit: f"#{names[hit[1]]}", found[name])
        if not found.get("transform", "-"):
            del found["transform"]
        if "id" in found:
            found["id"] = names.get(found["id"], "")
            if not found["id"]:
                del found["id"]
        style = SPACES.sub(r"\1", re.sub(r"font-family: [^;]*;?", "", found.pop("style", ""))).rstrip(";")
        if clip := found.pop("clip-path", ""):  # as a rule, since most of a figure's marks have the same
            style = f"{style};clip-path:{clip}".lstrip(";")
        if style:
            found["class"] = classes.setdefault(style, _letters(len(classes)))
    rules = "".join(f".{name}{{{style}}}" for style, name in classes.items())
    sheet = ElementTree.Element("style")
    sheet.text = f"*{{stroke-linejoin:round;font-family:{FONTS}}}{rules}"
    root.insert(0, sheet)
    text = re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode"))
    # In an address a double quote or a space is three characters.
    return TAG.sub(lambda tag: tag[0].replace('"', "'").replace(" />", "/>"), text).encode()


def _flatten(element: ElementTree.Element) -> None:
    """In the place of groups without any other attribute than a name stand their children."""
    for child in list(element):
        _flatten(child)
    kept = [child for child in element if child.tag not in NOT_DRAWN]
    group, element[:] = f"{{{NAMESPACE}}}g", []
    for child in kept:
        element.extend(child if child.tag == group and not child.attrib.keys() - {"id"} else [child])


def _join(root: ElementTree.Element) -> None:
    """The lines of a grid are one path: those of one look, with nothing but ticks and their texts between."""
    line: ElementTree.Element | None = None
    for child in list(root):
        if child.tag == f"{{{NAMESPACE}}}path" and "fill: none" in child.attrib.get("style", ""):
            if line is not None and _look(line) == _look(child):
                line.set("d", line.get("d", "") + child.get("d", ""))
                root.remove(child)
            else:
                line = child
        elif child.tag not in TICKS:
            line = None


def _look(path: ElementTree.Element) -> dict[str, str]:
    return {name: value for name, value in path.attrib.items() if name != "d"}


def _dress(root: ElementTree.Element) -> None:
    """A shape that is repeated with one style has that style itself, and its repetitions have none."""
    shapes = {element.attrib["id"]: element for element in root.iter() if "id" in element.attrib}
    repeated: dict[str, list[ElementTree.Element]] = {}
    for use in root.iter(f"{{{NAMESPACE}}}use"):
        repeated.setdefault(use.attrib.get(LINK, "")[1:], []).append(use)
    for name, uses in repeated.items():
        styles = {use.attrib.get("style", "") for use in uses}
        if name in shapes and len(styles) == 1:
            own = shapes[name].attrib.get("style", "")
            shapes[name].set("style", ";".join(filter(None, (*styles, own))))  # the later one counts
            for use in uses:
                use.attrib.pop("style", None)


def _short(places: str) -> str:
    rounded = ZEROS.sub(r"\1", DECIMALS.sub(r"\1", NO_TURN.sub("", places)))
    tight = SPACES.sub(r"\1", re.sub(r"\.(?!\d)", "", rounded)).strip()
    return re.sub(r"\s+", ",", tight)  # a space would be three characters of an address


def _letters(number: int) -> str:
    """a, b, ... z, a1, b1, ...: names that are short."""
    turn, letter = divmod(number, len(ascii_lowercase))
    return ascii_lowercase[letter] + (str(turn) if turn else "")
