"""LaTeX on a page: MathML, which browsers draw without scripts. What cannot be translated stays as it was typed.

It is put in after the HTML of a page was made harmless, and of what `latex2mathml` gives only what is listed here.
"""

import html
import re
from typing import Any
from xml.etree import ElementTree

from latex2mathml import converter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

SOURCE = '<code class="tex{more}">{latex}</code>'  # passes through bleach, and is what is seen if all else fails
FOUND = re.compile(r'<code class="tex( display)?">([^<]*)</code>')
TAGS = set(
    "math maction menclose mfenced mfrac mi mlabeledtr mmultiscripts mn mo mover mpadded mphantom mprescripts mroot "
    "mrow ms mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover none semantics".split()
)
ATTRIBUTES = set(
    "accent accentunder columnalign columnlines columnspacing columnspan depth display displaystyle fence form frame "
    "height largeop linethickness lspace mathcolor mathsize mathvariant maxsize minsize movablelimits notation "
    "rowalign rowlines rowspacing rspace scriptlevel separator stretchy symmetric voffset width".split()
)
PLAIN = re.compile(r"[\w .,#%+-]*")


class Renderer(IPythonRenderer):
    """nbconvert's, which leaves mathematics to MathJax; here it is marked for `translated`."""

    def block_math(self, body: str) -> str:
        """``$$...$$`` or ``\\[...\\]``."""
        return SOURCE.format(more=" display", latex=html.escape(body))

    def inline_math(self, body: str) -> str:
        """``$...$``; between two sums of money there are spaces, and no mathematics."""
        if body != body.strip():
            return f"${html.escape(body)}$"
        return SOURCE.format(more="", latex=html.escape(body))

    def latex_environment(self, name: str, body: str) -> str:
        """An environment, as ``align``."""
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def _embed_image_or_attachment(self, src: str) -> str:
        return src  # `notebook_outputs.attached` has put in what the notebook holds; nbconvert fails for what is gone


def markdown(source: str) -> str:
    """Markdown -> HTML, with mathematics marked: the filter ``markdown2html``. It is not harmless yet."""
    return str(MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(source))


def translated(markup: str) -> str:
    """Harmless HTML with the mathematics that is marked in it as MathML."""
    return FOUND.sub(lambda found: mathml(html.unescape(found[2]), bool(found[1])) or found[0], markup)


def mathml(latex: str, display: bool = False) -> str:
    """LaTeX as MathML with listed tags, attributes and plain values only; "" if it cannot be translated.

    >>> mathml(r"x_1")
    '<math display="inline"><mrow><msub><mi>x</mi><mn>1</mn></msub></mrow></math>'
    >>> mathml(r"\\text{<b>}")
    '<math display="inline"><mrow><mtext>&lt;b&gt;</mtext></mrow></math>'
    """
    try:
        found = converter.convert_to_element(latex.strip(), display="block" if display else "inline")
    except Exception:  # its parser fails in many ways, as IndexError and StopIteration
        return ""
    _prune(found)
    return ElementTree.tostring(found, encoding="unicode", short_empty_elements=False)


def _prune(element: Any) -> None:
    for name, value in list(element.attrib.items()):
        if name not in ATTRIBUTES or not PLAIN.fullmatch(value):
            del element.attrib[name]
    element.text = element.text and html.unescape(element.text)  # the library writes characters as references
    if element.tag not in TAGS:
        element.tag = "mrow"
    for child in element:
        _prune(child)
