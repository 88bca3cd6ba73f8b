"""One look: no figure names a colour or a unit of its own, and what is drawn on several pages is drawn alike."""

import ast
import re

import pytest

from geofm_lib.catalog.models import FAMILY
from geofm_lib.catalog.peers import OURS, PEERS
from geofm_lib.catalog.strategies import STRATEGIES
from geofm_lib.figures import _axes, costs, published, scaling
from geofm_lib.settings import ScalingSettings
from tests.test_layout import MODULES, name_of

FIGURES = [path for path in MODULES if path.parent.name == "figures" and path.stem not in ("_axes", "display", "svg")]
COLOUR = re.compile(r"#[0-9a-fA-F]{6}|C\d|black|gr[ea]y|red|blue|green|orange|colorblind|husl|tab10|viridis")
UNIT = re.compile(r"images/s|GiB|MiB|seconds a|per step|% of ideal|loss|FLOP|million parameters|images seen|nodes \(")
OTHER_SPELLINGS = re.compile(r"\b(GB|MB|KB|imgs?/s|images/sec|samples/s|images per second|seconds per step|s/step)\b")


def strings(path):
    """(line, text, the name of the argument that it is, or of the call) of every string of a module but docstrings."""
    tree = ast.parse(path.read_text())
    docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    named = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword):
            named |= {inner: node.arg or "" for inner in ast.walk(node.value)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.endswith("label"):
            named |= {inner: node.func.attr for argument in node.args for inner in ast.walk(argument)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docs:
            yield node.lineno, node.value, named.get(node, "")


@pytest.mark.parametrize("path", FIGURES, ids=name_of)
def test_no_figure_has_a_colour_or_a_unit_of_its_own(path):
    for line, text, argument in strings(path):
        assert not COLOUR.fullmatch(text), f"{name_of(path)}:{line}: take '{text}' from figures/_axes.py"
        if "label" in argument and argument != "label":
            assert not UNIT.search(text), f"{name_of(path)}:{line}: take '{text}' from figures/_axes.py"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "sns.barplot":
            given = {each.arg: ast.unparse(each.value) for each in node.keywords}
            assert given.get("saturation") == "1", f"{name_of(path)}:{node.lineno}: seaborn greys a bar's colour"


@pytest.mark.parametrize("room", ["figures", "report", "advice", "runs", "cli", "paper", "planning"])
def test_a_unit_has_one_spelling(room):
    for path in [path for path in MODULES if room in (path.parent.name, path.stem)]:
        for line, text, _ in strings(path):
            found = OTHER_SPELLINGS.search(text)
            assert not found, f"{name_of(path)}:{line}: '{found[0]}'; say GiB, MiB, images/s, seconds a step"


def test_whatever_is_drawn_often_has_a_look_of_its_own():
    for group in (FAMILY, (OURS, *PEERS), ("train", "val", "test"), ("pretrained", "untrained", "histograms")):
        looks = [_axes.LOOKS[each] for each in group]
        assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == len(group)
    own = [(row.colour, row.marker) for row in STRATEGIES.values()]
    assert len(set(own)) == len(own)
    assert _axes.look("HYBRID_3GPUs")["marker"], "one that has no row"


def test_a_strategy_is_drawn_alike_and_every_mark_is_in_the_legend():
    drawn = [published.scaling("ViT-3B"), scaling.predicted("ViT-3B"), scaling.efficiency("ViT-3B"),
             scaling.strong(ScalingSettings(model="ViT-3B")), costs.memory_by_nodes("ViT-3B")]  # fmt: skip
    for figure in drawn:
        seen, marks = set(), False
        for ax in figure.figure.axes:
            for line in ax.lines:
                name = str(line.get_label()).split(" (")[0]
                marks |= line.get_linestyle() == "None" and len(line.get_xdata()) > 0
                if name in STRATEGIES:
                    seen.add(name)
                    assert line.get_color() == STRATEGIES[name].colour
                    assert line.get_marker() in ("None", STRATEGIES[name].marker)
        named = {text.get_text() for text in figure.figure.legends[0].get_texts()}
        assert seen and seen <= {name.split(" (")[0] for name in named}
        assert not marks or any("published" in name for name in named), "what the marks are"
