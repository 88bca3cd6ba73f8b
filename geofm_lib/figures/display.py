"""What a notebook cell shows: a figure with words for those who cannot see it, a table, or a note.

A `Figure` wraps a matplotlib figure. It shows itself as one image, with its alt text in the output's metadata
(where the report template finds it), followed by its numbers as a folded table. No pyplot, so nothing is drawn
twice and no window is ever opened.
"""

import base64
import functools
import html
import io
from dataclasses import dataclass, field

import matplotlib
import matplotlib.figure
import numpy as np
import pandas as pd
from PIL import Image

WIDTH_IN = 7.2  # inches; at DPI this is 1037 pixels, sharp at the 720 CSS pixels of a page's column
DPI = 144
PHOTO_BYTES = 90_000  # a sheet of photographs is compressed until it is below this

RC = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
}


def styled(draw):
    """Decorator: draw in the house style, without changing the reader's own matplotlib settings."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return drawn


def axes(height: float = 3.3, rows: int = 1, columns: int = 1, **options):
    """A figure of the page's width and `height` inches, and its axes (one, or an array of them)."""
    figure = matplotlib.figure.Figure(figsize=(WIDTH_IN, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


@dataclass
class Table:
    """Numbers as a table: right-aligned, a caption above, one sentence instead when there are no rows."""

    frame: pd.DataFrame
    caption: str = ""
    empty: str = "Nothing to list."
    formats: dict[str, str] = field(default_factory=dict)  # column -> format of its numbers, else 4 digits
    head: bool = True

    def _repr_html_(self) -> str:
        if self.frame.empty:
            return f'<p class="note">{html.escape(self.empty)}</p>'
        caption = f'<p class="caption">{html.escape(self.caption)}</p>' if self.caption else ""
        styles = {name: self._style(self.frame[name]) for name in self.frame.columns}
        sides = {name: style.split(";")[0] for name, style in styles.items()}  # headings may wrap, short cells not
        head = "".join(f'<th style="{side}">{html.escape(str(name))}</th>' for name, side in sides.items())
        head = f"<thead><tr>{head}</tr></thead>" if self.head else ""
        body = "".join(
            "<tr>" + "".join(f'<td style="{styles[n]}">{self.cell(v, n)}</td>' for n, v in row.items()) + "</tr>"
            for row in self.frame.to_dict("records")
        )
        return f"{caption}<table>{head}<tbody>{body}</tbody></table>"

    def __repr__(self) -> str:
        return self.empty if self.frame.empty else self.frame.to_string(index=False)

    @staticmethod
    def _style(column: pd.Series) -> str:
        if pd.api.types.is_numeric_dtype(column) and column.dtype != bool:
            return "text-align:right"
        short = column.astype(str).str.len().max() <= 28
        return "text-align:left" + (";white-space:nowrap" if short else "")

    def cell(self, value, column: str = "") -> str:
        """One value as HTML text: `None` and NaN as a dash, large numbers in groups of three."""
        if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
            return "–"
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if isinstance(value, int | np.integer) and column not in self.formats:
            return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
        if isinstance(value, int | float | np.number):
            form = self.formats.get(column) or (",.0f" if abs(value) >= 10_000 else ".4g")
            return format(value, form).replace(",", "\u202f")
        return html.escape(str(value))


@dataclass
class Note:
    """A sentence where a reader would expect a figure."""

    text: str

    def _repr_html_(self) -> str:
        return f'<p class="note">{html.escape(self.text)}</p>'

    def __repr__(self) -> str:
        return self.text


@dataclass
class Figure:
    """A figure, what it shows in words, and its numbers.

    `photo=True` saves it as JPEG (images of the ground), else as PNG with a small palette (lines and bars).
    """

    figure: matplotlib.figure.Figure
    alt: str
    table: pd.DataFrame | None = None
    photo: bool = False
    _encoded: bytes = field(default=b"", repr=False)

    def encoded(self) -> bytes:
        """The figure as PNG or JPEG bytes; drawn once."""
        if not self._encoded:
            image = self._pixels()
            self._encoded = _jpeg(image) if self.photo else _png(image)
        return self._encoded

    def _repr_mimebundle_(self, include=None, exclude=None):
        kind = "image/jpeg" if self.photo else "image/png"
        text = base64.b64encode(self.encoded()).decode()
        return {kind: text, "text/plain": self.alt}, {kind: {"alt": self.alt, "width": int(WIDTH_IN * 100)}}

    def _ipython_display_(self):
        """The image, then its numbers folded below it: two outputs, so that neither hides the other."""
        from IPython.display import HTML, display

        data, metadata = self._repr_mimebundle_()
        display(data, metadata=metadata, raw=True)
        if self.table is not None and len(self.table):
            numbers = Table(self.table)._repr_html_()
            display(HTML(f"<details><summary>The numbers of this figure</summary>{numbers}</details>"))

    def _pixels(self) -> Image.Image:
        buffer = io.BytesIO()
        with matplotlib.rc_context(RC):
            self.figure.savefig(buffer, format="png", dpi=DPI)
        return Image.open(buffer).convert("RGB")


@styled
def sheet(rows: list[np.ndarray], titles: list[str] | None = None, names: list[str] | None = None, columns: int = 0):
    """A figure of small images.

    `rows`: uint8 arrays [K, H, W, C], one a row of the sheet; with `columns`, a single array is wrapped into rows
    of that many. `titles`: a word over each image; `names`: a word beside each row. Only the first three of more
    than three channels are shown, and one channel is shown in grey.
    """
    if columns:
        whole = rows[0]
        rows = [whole[start : start + columns] for start in range(0, len(whole), columns)]
    wide = max(len(row) for row in rows)
    side = WIDTH_IN / wide
    height = len(rows) * (side + (0.2 if titles else 0.0)) + 0.1
    figure = matplotlib.figure.Figure(figsize=(WIDTH_IN, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)
    grid = figure.subplots(len(rows), wide, squeeze=False)
    for r, row in enumerate(rows):
        for c in range(wide):
            ax = grid[r, c]
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.spines[:].set_visible(False)
            if c < len(row):
                ax.imshow(_showable(row[c]), cmap="gray", vmin=0, vmax=255)
                position = r * wide + c if columns else c
                if titles and (columns or r == 0) and position < len(titles):
                    ax.set_title(titles[position], fontsize=7, fontweight="normal", pad=2, loc="center")
        if names:
            grid[r, 0].set_ylabel(names[r], fontsize=8)
    return figure


def _showable(image_HWC: np.ndarray) -> np.ndarray:
    image = np.asarray(image_HWC)
    if image.ndim == 2 or image.shape[-1] == 3:
        return image
    return image[..., 0] if image.shape[-1] < 3 else image[..., :3]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _jpeg(image: Image.Image) -> bytes:
    for scale, quality in ((1.0, 88), (1.0, 75), (0.8, 70), (0.65, 65), (0.5, 50), (0.35, 40)):
        buffer = io.BytesIO()
        size = (round(image.width * scale), round(image.height * scale))
        image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= PHOTO_BYTES:
            break
    return buffer.getvalue()
