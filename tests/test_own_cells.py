"""A user's own cells on a page: each kind of output survives, or a sentence says what it was. Written by hand."""

import base64
import re

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

from geofm_lib.report import notebook_outputs
from geofm_lib.report.foreign import STATE, WIDGET
from geofm_lib.report.mathematics import mathml
from geofm_lib.report.page import render
from tests.test_report import PIXEL

GIF = "R0lGODlhAQABAIAAAP///wAAACH5BAEAAAAALAAAAAABAAEAAAICRAEAOw=="


def shows(kind="display_data", widgets=None, **data):
    """The text of what a page shows of one output, as HTML or as plain text."""
    data = {name.replace("__", "/"): content for name, content in data.items()}
    return text_of(notebook_outputs.outputs([new_output(kind, data=data)], widgets))


def text_of(outputs):
    return " ".join(content for output in outputs for content in output.get("data", {"": output.get("text")}).values())


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a notebook with these cells."""
    folder = tmp_path_factory.mktemp("page")

    def write(*cells, metadata=None):
        source = new_notebook(cells=[new_markdown_cell("# Is it there?"), *cells], metadata=metadata or {})
        nbformat.write(source, folder / "n.ipynb")
        return render(folder / "n.ipynb", folder / "report.html").read_text()

    return write


def test_mathematics_is_drawn_without_scripts(page):
    sums = "Between $5 and $10, of $x_i^2$:\n\n$$\\frac{a}{b} \\text{<b>}$$\n\n`$not$` \\begin{align}a&=b\\end{align}"
    broken = "$\\left($"
    shown = [new_output("display_data", data={"text/latex": "$\\displaystyle \\alpha$", "text/plain": "<Math>"})]
    text = page(new_markdown_cell(f"{sums}\n\n{broken}"), new_code_cell("x", outputs=shown, execution_count=1))
    assert text.count("<math") == 4
    assert "¶" not in text
    assert "Between $5 and $10, of" in text
    assert "<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>" in text
    assert "<mi>α</mi>" in text and "<mtable" in text
    assert "<code>$not$</code>" in text
    assert '<code class="tex">\\left(</code>' in text, "what cannot be translated stays as it was typed"
    assert "<mtext>&lt;b&gt;</mtext>" in text


@pytest.mark.parametrize(
    "latex", [r"\href{javascript:x()}{a}", r"\style{background:url(https://x)}{a}", r"\text{<img src=x onerror=x()>}"]
)
def test_no_mathematics_does_anything(latex):
    drawn = mathml(latex)
    assert "<math" in drawn
    assert not re.search(r"<(?!/?(math|m\w+)\b)|href|style|onerror=(?!x\(\)&gt;)", drawn)


def stream(text, name="stderr"):
    return new_output("stream", name=name, text=text)


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ([stream("\r 0%|  | 0/2"), stream("\r 50%|# | 1/2"), stream("\r100%|##| 2/2\n")], ["100%|##| 2/2\n"]),
        # two bars, one below the other, as tqdm draws them with position=0 and 1
        ([stream("\router 0/2\n\rinner 1/3\x1b[A\n\rinner 3/3\x1b[A\router 2/2\n\n")], ["outer 2/2\ninner 3/3\n"]),
        # a print between two states of one bar
        ([stream("\r 0/2"), stream("hello\n", "stdout"), stream("\r 2/2\n")], ["hello\n", " 2/2\n"]),
        ([stream("\x1b[31mred\x1b[0m\r\nend")], ["red\nend"]),
        ([stream("bar that goes\r             \rdone\n")], ["done\n"]),
    ],
)
def test_the_last_state_of_a_progress_bar_is_left(written, left):
    assert [output["text"] for output in notebook_outputs.outputs(written)] == left


def widget(name, **state):
    return {"model_name": f"{name}Model", "state": state, "buffers": state.pop("buffers", [])}


MODELS = {
    "bar": widget("HBox", children=["IPY_MODEL_a", "IPY_MODEL_b", "IPY_MODEL_c", "IPY_MODEL_bar"]),
    "a": widget("HTML", value="100%"),
    "b": widget("FloatProgress", value=3.0, max=3.0),
    "c": widget("HTML", value=" 3/3 [00:01&lt;00:00]<script>x()</script>"),
    "slider": widget("IntSlider", value=7, description="<epochs>"),
    "choice": widget("Dropdown", index=1, _options_labels=["a", "b"], description="which"),
    "image": widget("Image", format="png", buffers=[{"path": ["value"], "data": PIXEL}]),
    "caught": widget("Output", outputs=[{"output_type": "stream", "text": "step 1\rstep 2 <b>"}]),
    "odd": widget("FloatProgress", value=None) | {"buffers": None},
    "map": widget("LeafletMap", center=[0, 0]),
}


@pytest.mark.parametrize(
    ("model", "facts"),
    [
        ("bar", ["100%", "█" * 20, "3/3"]),
        ("slider", ["&lt;epochs&gt; 7"]),
        ("choice", ["which b"]),
        ("image", [f'src="data:image/png;base64,{PIXEL}"']),
        ("caught", ["<pre>step 2 &lt;b&gt;</pre>"]),
        ("odd", ["A widget (Map) stood here"]),
        ("map", ["A widget (Map) stood here, and its last state was not kept"]),
        ("gone", ["A widget (Map) stood here"]),
    ],
)
def test_a_widget_is_shown_as_it_was_last(page, model, facts):
    shown = new_output("display_data", data={WIDGET: {"model_id": model}, "text/plain": "Map(center=[0, 0])"})
    text = page(
        new_code_cell("x", outputs=[shown], execution_count=1), metadata={"widgets": {STATE: {"state": MODELS}}}
    )
    for fact in facts:
        assert fact in text
    assert "<script" not in text


def test_a_widget_without_a_state_says_that_it_is_not_the_last():
    kept = shows(**{WIDGET: {"model_id": "x"}, "text__plain": "  0%|  | 0/3"})
    assert "0/3" in kept and "its last state was not kept" in kept
    still = shows(widgets=MODELS, **{WIDGET: {"model_id": "bar"}, "text__html": "<p>still</p>", "text__plain": "?"})
    assert still == "<p>still</p>", "a still form of its own"


PLOTLY = {"data": [{"type": "bar"}, {"type": "bar"}, {}], "layout": {"title": {"text": "Loss <b>"}}}


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        ({"application/vnd.plotly.v1+json": PLOTLY, "text/html": "<div></div><script>x()</script>"},
         ["plotly figure &#x27;Loss &lt;b&gt;&#x27; (2 bar, 1 scatter) is not shown here", "figure.show"]),
        ({"application/vnd.plotly.v1+json": PLOTLY, "image/png": PIXEL}, [PIXEL]),
        ({"application/vnd.plotly.v1+json": "no figure"}, ["An interactive plotly figure is not shown here"]),
        ({"text/html": "<div id='x'></div><script>draw()</script>"}, ["Something that scripts draw is not shown here"]),
        ({"text/html": "<iframe src='https://x'></iframe>", "text/plain": "<IFrame>"}, ["Another page in a frame"]),
        ({"text/html": "<video controls><source src='data:video/mp4;base64,AA'></video>"}, ["A video is not shown"]),
        ({"text/html": "<p>before</p><audio src='data:audio/wav;base64,AA'></audio>"}, ["before", "Sound is not"]),
        ({"text/html": "<div></div>"}, ["nothing that a page can show"]),
        ({"application/vnd.vegalite.v5+json": {}, "text/plain": "<VegaLite 5 object>\n\nIf you"}, ["Vega chart"]),
        ({"application/vnd.x+json": {}, "text/plain": "<a.B object>"}, ["of the kind application/vnd.x+json is not"]),
        ({"image/gif": GIF, "text/plain": "<IPython.core.display.Image object>"}, [f"data:image/gif;base64,{GIF}"]),
        ({"text/plain": "<a.B object at 0x1>"}, ["<a.B object at 0x1>"]),
        ({}, ["is not shown here"]),
    ],
)  # fmt: skip
def test_nothing_is_silently_empty(data, facts):
    shown = text_of(notebook_outputs.outputs([new_output("display_data", data=data)]))
    for fact in facts:
        assert fact in shown


def test_tables_drawings_and_attached_images_are_on_the_page(page):
    frame = pd.DataFrame({"name": ["a & b"], "loss": [0.5]})
    drawing = "<p>d</p><svg width='9' height='9'><rect width='9' height='9'/></svg>"
    shown = [new_output("execute_result", data={"text/html": html}) for html in (frame._repr_html_(), drawing)]
    attached = new_markdown_cell(
        "![a](attachment:dot.png) ![here](local.png) ![gone](attachment:gone.png) <img src='https://geofm.invalid/x.png'>"
    )
    attached["attachments"] = {"dot.png": {"image/png": PIXEL}}
    raw = new_raw_cell("\\section{a <b>}\n\nend")
    text = page(attached, raw, new_code_cell("x", outputs=shown, execution_count=1))
    assert "<td>a &amp; b</td>" in text and "<th>loss</th>" in text
    (found,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)
    assert b'xmlns="http://www.w3.org/2000/svg"' in base64.b64decode(found)
    assert f'src="data:image/png;base64,{PIXEL}"' in text
    assert "(an image that is not in this page: here)" in text
    assert text.count("(an image that is not in this page") == 3
    assert "geofm.invalid" not in text
    assert "<pre>\\section{a &lt;b&gt;}\n\nend</pre>" in text
