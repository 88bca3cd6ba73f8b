"""What a notebook cell shows: a figure with words for those who cannot see it, a table, or a note.

HTML is rendered from `templates/`, which escapes every value. Without pyplot nothing is drawn twice.
"""

import base64
import functools
import io
import os
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jinja2
import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image, ImageOps

from geofm_lib.catalog import metrics
from geofm_lib.figures import svg
from geofm_lib.runs import results

WIDTH_IN = 7.2  # inches, shown on 720 CSS pixels
NARROW_IN = 4.2  # inches of the same figure laid out for a phone: text of 8 points has 9 of its 360 CSS pixels
NARROW_TALLER = 1.15  # legends need more lines there
DPI = 144  # of photographs
FEW_COLUMNS = 4  # of a table that a phone shows as one
PHONE_PX, LETTER_PX, GAP_PX = 360, 6.6, 13  # of a phone's column; of a letter and a gap in a table
ENDS = (("low", "high"), ("from", "to"))  # names of columns behind a value that hold its interval
PHOTO_BYTES = 55_000  # a sheet of photographs is compressed until it is below this; for a phone below half of it

NO_RESULTS = "No results yet"  # an answer that begins so makes the page's badge say it, too

HERE = Path(__file__).parent
LOADER = jinja2.FileSystemLoader(HERE / "templates")
TEMPLATES = jinja2.Environment(loader=LOADER, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
TEMPLATES.filters["zip"] = zip
TEMPLATES.filters["code"] = lambda text: Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
RC = matplotlib.rc_params_from_file(HERE / "geofm.mplstyle", use_default_template=False)
styled = matplotlib.rc_context(RC)  # decorator: draw with RC, without changing the reader's own settings


def axes(
    height: float = 3.3, rows: int = 1, columns: int = 1, width: float = WIDTH_IN, **options: Any
) -> tuple[matplotlib.figure.Figure, Any]:
    """A figure of `width` (the page's) and `height` inches, and its axes (one, or an array of them)."""
    figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
    found = figure.subplots(rows, columns, **options)
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(Grouped())
            axis.isDefault_majfmt = True  # names of categories and dates take its place
    return figure, found


class Grouped(matplotlib.ticker.ScalarFormatter):
    """Numbers on an axis, thousands in groups as in the text."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        text = str(super().__call__(value, pos))
        return re.sub(r"^(\W?)(\d{4,})$", lambda found: f"{found[1]}{int(found[2]):,}", text)


class Rendered:
    """Something shown as HTML by its template, which knows it as `it`; inside another template it is not escaped."""

    template: ClassVar[str]

    def _repr_html_(self) -> str:
        return rendered(self.template, self)

    __html__ = _repr_html_


def rendered(template: str, it: object) -> str:
    """The HTML of `templates/<template>.html.j2`, in which the object is `it`."""
    return TEMPLATES.get_template(f"{template}.html.j2").render(it=it)


@dataclass
class Table(Rendered):
    """Numbers as a table: right-aligned, a caption above, one sentence instead when there are no rows."""

    template = "table"
    frame: pd.DataFrame
    caption: str = ""
    empty: str = "Nothing to list."
    formats: dict[str, str] = field(default_factory=dict)  # column -> format of its numbers, else 3 digits
    head: bool = True
    blocks: bool = (
        True  # on a phone, if it is wide; folded numbers are plain, since names and styles double their bytes
    )

    def __repr__(self) -> str:
        return self.empty if self.frame.empty else self.frame.to_string(index=False)

    @property
    def wide(self) -> bool:
        """Too many columns for a phone? There each row is a block of names and values, so that nothing is hidden."""
        if not (self.head and self.blocks) or self.frame.empty:
            return False
        return len(self.frame.columns) > FEW_COLUMNS or self._narrowest() > PHONE_PX

    def _narrowest(self) -> float:
        """CSS pixels below which a phone would cut this table: of each column what does not break, and the gap."""
        total = 0.0
        for (name, _, fixed), column in zip(self.columns(), self.frame, strict=True):
            cells = [str(self.cell(value, column)) for value in self.frame[column]]
            number = pd.api.types.is_numeric_dtype(self.frame[column])
            parts = cells if fixed or number else [word for cell in cells for word in cell.split()]
            total += LETTER_PX * max(map(len, [*name.split(), *parts]), default=0) + GAP_PX
        return total

    def columns(self) -> list[tuple[str, str, str]]:
        """(name, CSS of its alignment, CSS that keeps short cells on one line) of each column."""
        found = []
        for name, column in self.frame.items():
            number = pd.api.types.is_numeric_dtype(column) and column.dtype != bool
            short = not number and column.astype(str).str.len().max() <= 28
            align = f"text-align:{'right' if number else 'left'}"
            found.append((metrics.heading(name), align, ";white-space:nowrap" if short else ""))
        return found

    def cell(self, value: Any, column: str = "") -> "str | Rendered":
        """One value as text: `None` and NaN as a dash, numbers as everywhere (`catalog/metrics`)."""
        if isinstance(value, Rendered):  # a link, which its template escapes
            return value
        if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
            return "–"
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if not isinstance(value, int | float | np.number):
            return str(value)
        form = self.formats.get(column)
        return format(value, form) if form else metrics.number(float(value))

    def cells(self, row: Mapping[Any, Any]) -> "list[str | Rendered]":
        """A row as text; a value before the ends of its interval has the digits that this allows, and so have they."""
        names = list(self.frame.columns)
        values = [row[name] for name in names]
        found = [self.cell(value, name) for name, value in zip(names, values, strict=True)]
        for k in range(1, len(names) - 1):
            three = values[k - 1 : k + 2]
            if tuple(names[k : k + 2]) in ENDS and all(_known(each) for each in three):
                found[k - 1 : k + 2] = metrics.with_ends(*map(float, three))
        return found


def _known(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def facts(found: Mapping[str, Any], caption: str = "") -> Table:
    """A table of two columns without a head: facts and their values, but for those that nothing is known of."""
    known = [(name, str(value)) for name, value in found.items() if value not in (None, "")]
    return Table(pd.DataFrame(known, columns=["fact", "value"]), caption, head=False)


@dataclass
class Links(Rendered):
    """Words in a cell of a table, each a link to a file beside the page where it has one: [(words, address), ...]."""

    template = "links"
    words: list[tuple[str, str]]

    def __repr__(self) -> str:
        return ", ".join(each for each, _ in self.words)


def page_folder() -> Path:
    """The folder of the page that this notebook is made into; in JupyterLab the notebook's own."""
    given = os.environ.get("GEOFM_PAGE")
    return Path(given).parent if given else Path(os.environ.get("GEOFM_EXECUTION") or Path.cwd())


def file_address(file: Path | None, travels: bool = True) -> str:
    """A file as a link counts it, from the page that this becomes; "" where there is none.

    `travels`: it is in the repository, as recorded pages are; these have no links to runs, which stay behind.
    """
    here = page_folder()
    if file is None or not file.exists() or (here == results.REPORTS / "recorded" and not travels):
        return ""
    return Path(os.path.relpath(file, os.path.realpath(here))).as_posix()


@dataclass
class Note(Rendered):
    """A sentence where a reader would expect a figure."""

    template = "note"
    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass
class Answer(Rendered):
    """What a page answers to its question: one sentence with number, unit, interval and conditions; more below it."""

    template = "answer"
    text: str
    more: str = ""

    def __repr__(self) -> str:
        return f"{self.text} {self.more}".strip()


@dataclass
class Figure:
    """One image, its caption as alt text in the output's metadata, where the page's template finds it; its numbers.

    Lines and bars are SVG, laid out twice: for a page's column and for a phone. Photographs are JPEG.
    """

    figure: matplotlib.figure.Figure
    alt: str
    table: pd.DataFrame | None = None
    photo: bool = False
    narrow: matplotlib.figure.Figure | None = None  # a sheet of fewer photographs, for a phone

    @functools.cached_property
    @styled
    def encoded(self) -> bytes:
        """The figure as SVG or JPEG bytes; drawn once."""
        return _jpeg(self.figure) if self.photo else svg.drawn(self.figure)

    @functools.cached_property
    @styled
    def for_phone(self) -> bytes:
        """The same for a narrow screen: taller, labels wrapped, legends in two columns."""
        if self.photo:
            return _jpeg(self.narrow, PHOTO_BYTES // 2) if self.narrow else self.encoded
        assert self.encoded, "the wide one is drawn first"
        figure = self.figure
        figure.set_size_inches(NARROW_IN, figure.get_figheight() * NARROW_TALLER)
        figure.draw_without_rendering()  # for the width of each axes
        for ax in figure.axes:
            _fit(ax, *(72 * ax.get_position().size * figure.get_size_inches()))
        for legend in figure.legends[:]:
            words = [text.get_text() for text in legend.get_texts()]
            handles = [each for each in legend.legend_handles if each is not None]
            figure.legend(handles, words, loc="outside lower center", ncols=1 + (max(map(len, words)) < 27))
            legend.remove()
        return svg.drawn(figure)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, str], dict[str, Any]]:
        kind = "image/jpeg" if self.photo else "image/svg+xml"
        text = [
            base64.b64encode(each).decode() if self.photo else each.decode() for each in (self.encoded, self.for_phone)
        ]
        about = {"alt": self.alt, "width": int(WIDTH_IN * 100), "narrow": text[1]}
        return {kind: text[0], "text/plain": self.alt}, {kind: about}

    def _ipython_display_(self) -> None:
        """The image, then its numbers folded below it: two outputs, so that neither hides the other."""
        from IPython.display import HTML, display

        data, metadata = self._repr_mimebundle_()
        display(data, metadata=metadata, raw=True)
        if self.table is not None and len(self.table):
            display(HTML(rendered("numbers", Table(self.table, blocks=False))))


def _fit(ax: Any, width: float, height: float) -> None:
    """Break labels that are longer than the axes (in points), and turn words on ticks that would touch."""
    titles = [ax.title, ax._left_title, ax._right_title]
    for room, words in ((height, ax.yaxis.label), (width, ax.xaxis.label), *((width, each) for each in titles)):
        words.set_text(textwrap.fill(words.get_text(), max(12, int(room / (0.62 * words.get_fontsize())))))
    names = [tick.get_text() for tick in ax.get_xticklabels()]
    worded = any(re.search("[A-Za-z(]", name) and not name.startswith("$") for name in names)
    if not worded and len(names) > 4 and sum(map(len, names)) * 0.7 * 9.5 > width:
        for tick in ax.get_xticklabels()[1::2]:
            tick.set_visible(False)
    if worded and sum(map(len, names)) * 0.62 * 9.5 > width:
        ax.tick_params(axis="x", rotation=90)


def cut(name: str, most: int) -> str:
    """A name that stands over a small image: of a longer one the beginning."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


@styled
def sheet(
    rows: list[np.ndarray],
    titles: list[str] | None = None,
    names: list[str] | None = None,
    width: float = WIDTH_IN,
) -> matplotlib.figure.Figure:
    """A figure of small images: uint8 [K, H, W, C] for each row of the sheet.

    `titles`: a word over each image, row by row; `names`: one beside each row. Fewer than three channels are shown as
    one in grey, more as three.
    """
    wide = max(len(row) for row in rows)
    height = len(rows) * (width / wide + (0.2 if titles else 0.0)) + 0.1
    figure, grid = axes(height, len(rows), wide, width, squeeze=False)
    figure.set_layout_engine("constrained", w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)
    for (r, c), ax in np.ndenumerate(grid):
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
        if c < len(rows[r]):
            image = rows[r][c]
            ax.imshow(image[..., :3] if image.shape[-1] >= 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
            if titles:
                ax.set_title(titles[r * wide + c], fontsize=8, fontweight="normal", pad=2, loc="center")
        if names and c == 0:
            ax.set_ylabel(names[r], fontsize=8)
    return figure


def _jpeg(figure: matplotlib.figure.Figure, limit: int = PHOTO_BYTES) -> bytes:
    """Compressed until it is small enough, and then made smaller."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    image = Image.open(buffer).convert("RGB")
    for scale, quality in ((1.0, 88), (1.0, 75), (0.8, 70), (0.65, 65), (0.5, 50), (0.35, 40)):
        buffer = io.BytesIO()
        smaller = ImageOps.scale(image, scale, Image.Resampling.LANCZOS)
        smaller.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= limit:
            break
    return buffer.getvalue()
