"""What a notebook cell shows: a figure with words for those who cannot see it, a table, or a note.

HTML is rendered from `templates/`, which escapes every value. Without pyplot nothing is drawn twice.
"""

import base64
import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jinja2
import matplotlib
import matplotlib.figure
import numpy as np
import pandas as pd
from PIL import Image, ImageOps

WIDTH_IN = 7.2  # inches; at DPI this is 1037 pixels, sharp at the 720 CSS pixels of a page's column
DPI = 144
PHOTO_BYTES = 90_000  # a sheet of photographs is compressed until it is below this

HERE = Path(__file__).parent
LOADER = jinja2.FileSystemLoader(HERE / "templates")
TEMPLATES = jinja2.Environment(loader=LOADER, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
RC = matplotlib.rc_params_from_file(HERE / "geofm.mplstyle", use_default_template=False)
styled = matplotlib.rc_context(RC)  # decorator: draw with RC, without changing the reader's own settings


def axes(height: float = 3.3, rows: int = 1, columns: int = 1, **options: Any) -> tuple[matplotlib.figure.Figure, Any]:
    """A figure of the page's width and `height` inches, and its axes (one, or an array of them)."""
    figure = matplotlib.figure.Figure(figsize=(WIDTH_IN, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


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
    formats: dict[str, str] = field(default_factory=dict)  # column -> format of its numbers, else 4 digits
    head: bool = True

    def __repr__(self) -> str:
        return self.empty if self.frame.empty else self.frame.to_string(index=False)

    def columns(self) -> list[tuple[Any, str, str]]:
        """(name, CSS of its alignment, CSS that keeps short cells on one line) of each column."""
        found = []
        for name, column in self.frame.items():
            number = pd.api.types.is_numeric_dtype(column) and column.dtype != bool
            short = not number and column.astype(str).str.len().max() <= 28
            align = f"text-align:{'right' if number else 'left'}"
            found.append((name, align, ";white-space:nowrap" if short else ""))
        return found

    def cell(self, value: Any, column: str = "") -> "str | Rendered":
        """One value as text: `None` and NaN as a dash, large numbers in groups of three."""
        if isinstance(value, Rendered):  # a link, which its template escapes
            return value
        if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
            return "–"
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if not isinstance(value, int | float | np.number):
            return str(value)
        large = "," if abs(float(value)) >= 10_000 else ""
        usual = "d" if isinstance(value, int | np.integer) else ".0f" if large else ".4g"
        return format(value, self.formats.get(column) or large + usual).replace(",", "\u202f")


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


@dataclass
class Note(Rendered):
    """A sentence where a reader would expect a figure."""

    template = "note"
    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass
class Figure:
    """One image with alt text in the output's metadata, where the page's template finds it; below it its numbers."""

    figure: matplotlib.figure.Figure
    alt: str
    table: pd.DataFrame | None = None
    photo: bool = False  # images of the ground as JPEG, else lines and bars as PNG with a small palette

    @functools.cached_property
    @styled
    def encoded(self) -> bytes:
        """The figure as PNG or JPEG bytes; drawn once."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=DPI)
        image = Image.open(buffer).convert("RGB")
        return _jpeg(image) if self.photo else _png(image)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, str], dict[str, Any]]:
        kind = "image/jpeg" if self.photo else "image/png"
        text = base64.b64encode(self.encoded).decode()
        return {kind: text, "text/plain": self.alt}, {kind: {"alt": self.alt, "width": int(WIDTH_IN * 100)}}

    def _ipython_display_(self) -> None:
        """The image, then its numbers folded below it: two outputs, so that neither hides the other."""
        from IPython.display import HTML, display

        data, metadata = self._repr_mimebundle_()
        display(data, metadata=metadata, raw=True)
        if self.table is not None and len(self.table):
            display(HTML(rendered("numbers", Table(self.table))))


@styled
def sheet(
    rows: list[np.ndarray], titles: list[str] | None = None, names: list[str] | None = None
) -> matplotlib.figure.Figure:
    """A figure of small images: uint8 [K, H, W, C] for each row of the sheet.

    `titles`: a word over each image, row by row; `names`: one beside each row. Fewer than three channels are shown as
    one in grey, more as three.
    """
    wide = max(len(row) for row in rows)
    height = len(rows) * (WIDTH_IN / wide + (0.2 if titles else 0.0)) + 0.1
    figure, grid = axes(height, len(rows), wide, squeeze=False)
    figure.set_layout_engine("constrained", w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)
    for (r, c), ax in np.ndenumerate(grid):
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
        if c < len(rows[r]):
            image = rows[r][c]
            ax.imshow(image[..., :3] if image.shape[-1] >= 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
            if titles:
                ax.set_title(titles[r * wide + c], fontsize=7, fontweight="normal", pad=2, loc="center")
        if names and c == 0:
            ax.set_ylabel(names[r], fontsize=8)
    return figure


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _jpeg(image: Image.Image) -> bytes:
    for scale, quality in ((1.0, 88), (1.0, 75), (0.8, 70), (0.65, 65), (0.5, 50), (0.35, 40)):
        buffer = io.BytesIO()
        smaller = ImageOps.scale(image, scale, Image.Resampling.LANCZOS)
        smaller.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= PHOTO_BYTES:
            break
    return buffer.getvalue()
