"""The rules of the layout, checked: imports, docstrings, what a notebook is, what the README promises, small files."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest

from geofm_lib import settings
from geofm_lib.report import notebook_outputs

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "geofm_lib").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_CELL_LINES = 12  # a longer cell wants a function in the library

# Imports only go down: each room may import from itself and from the rooms named here.
MAY_IMPORT = {
    "rights": set(),
    "files": {"rights"},  # writes a file whole or not at all: every room may, without a second way of doing it
    "streams": set(),  # standard output that cannot fail: for whoever has a process of its own
    "catalog": set(),
    "planning": {"catalog"},
    "settings": {"catalog"},
    "data": {"catalog", "settings"},
    "scenes": {"data"},
    "model": {"catalog"},
    "distributed": {"catalog", "planning", "data", "model"},
    "profiling": {"catalog", "planning", "data", "model", "distributed"},
    "jobs": {"catalog", "planning", "settings", "scenes", "data", "model", "distributed", "profiling"},
    "advice": {"catalog", "planning", "settings"},
    "runs": {"catalog", "planning", "settings", "advice"},
    "paper": {"catalog", "planning", "settings", "runs"},
    "figures": {"catalog", "planning", "settings", "advice", "runs", "paper"},
    "report": {"catalog", "settings", "runs", "figures"},
    "cli": {"catalog", "planning", "settings", "advice", "runs", "paper", "figures", "report"},
    "__main__": {"cli"},
}
# Modules of a room above that a room below may import all the same: data/sources lists files, and knows no torch.
# jobs/run_folder and jobs/owner name the files by which launcher and ranks know of each other; model/interop/locate
# finds encoders', headers says what is in them, and distributed/manifest says which checkpoint is whole.
ALSO = {
    "runs": {
        "geofm_lib.data.sources",
        "geofm_lib.distributed.manifest",
        "geofm_lib.jobs.owner",
        "geofm_lib.jobs.pace",
        "geofm_lib.jobs.probe_summary",
        "geofm_lib.jobs.run_folder",
        "geofm_lib.model.interop.locate",
        "geofm_lib.model.interop.headers",
    },
    "report": {"geofm_lib.jobs.owner", "geofm_lib.jobs.run_folder", "geofm_lib.jobs.pace"},
}
KERNEL = ("advice", "runs", "paper", "figures", "report", "cli")  # the notebook's side: it must not load torch
PLOTTING = {"matplotlib", "seaborn", "IPython"}
NOTEBOOK = PLOTTING | {"pandas", "papermill", "nbconvert", "nbclient", "nbformat"}
MUST_NOT_IMPORT = {
    **dict.fromkeys(KERNEL, {"torch", "torchvision", "timm", "safetensors"}),
    "runs": {"torch", "torchvision", "timm", "safetensors", "matplotlib", "seaborn"},
    "paper": {"torch", "torchvision", "timm", "safetensors"} | PLOTTING,
    "data": {"torch.distributed"} | NOTEBOOK,
    "model": {"torch.distributed"} | NOTEBOOK,
    "distributed": NOTEBOOK,
    "profiling": NOTEBOOK,
    "jobs": NOTEBOOK,
}
EVERYBODYS = {"", "__version__", "files", "rights", "streams"}
STANDARD_ONLY = {"files", "rights", "streams", "catalog", "planning"}  # settings may add pydantic
FITS = tuple(f"geofm_lib/planning/{name}.py" for name in ("calibrate", "machine_fit", "fit_errors"))  # with scipy


def room(path):
    """`catalog`, `runs`, ... or `settings` for a module of geofm_lib; '' for the package itself."""
    parts = path.relative_to(ROOT / "geofm_lib").parts
    return parts[0].removesuffix(".py").replace("__init__", "")


def imports(path):
    """Dotted names that a module imports, wherever in it: `geofm_lib.catalog.models`, `torch.distributed`, ..."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path):
    here = room(path)
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "geofm_lib":
            there = rest[0] if rest else ""
            allowed = there == here or there in MAY_IMPORT.get(here, set()) or there in EVERYBODYS
            also = any(name == each or name.startswith(each + ".") for each in ALSO.get(here, set()))
            assert allowed or also, f"{name_of(path)} ({here}) must not import {name}"
            continue
        banned = MUST_NOT_IMPORT.get(here, set())
        assert not any(name == each or name.startswith(each + ".") for each in banned), f"{name_of(path)}: {name}"
        if name_of(path) in FITS and top in ("numpy", "scipy"):
            continue
        if here in STANDARD_ONLY or here == "settings":
            allowed = top in sys.stdlib_module_names or (here == "settings" and top == "pydantic")
            assert allowed, f"{name_of(path)} may import the standard library only, and imports {name}"


def test_the_kernel_side_never_loads_torch(root):
    """Not even by way of a package that it imports."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES if room(path) in KERNEL]
    code = f"import importlib, sys; [importlib.import_module(n) for n in {names!r}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False", "importing the kernel's side loads torch"


def test_the_fit_is_loaded_only_when_it_is_called():
    """Only the study that fits again, and the command, ask `planning.calibrate`, and only when they are called."""
    found = {name_of(path) for path in MODULES for name in imports(path) if "planning.calibrate" in name}
    assert found == {"geofm_lib/paper/studies.py", "geofm_lib/cli/planning.py"}
    for name in found:
        lines = (ROOT / name).read_text().splitlines()
        assert all(line.startswith(" ") for line in lines if "import calibrate" in line), f"{name}: at its top"


def test_fsdp1_is_imported_by_the_findings_only():
    """It trains nothing here: the one job that shows its fault imports it."""
    names = ("FullyShardedDataParallel", "ShardingStrategy", "ModuleWrapPolicy")
    found = {name_of(path) for path in MODULES for name in imports(path) if name.rpartition(".")[2] in names}
    assert found == {"geofm_lib/jobs/findings.py"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name_of(path)} has no docstring"


def test_public_functions_and_classes_say_what_they_do():
    silent = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in MODULES
        if path.parent.name != "scenes"  # a class's drawer is called what it draws
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and node.name != "main"
        and not ast.get_docstring(node)
    ]
    assert not silent, f"no docstring: {silent}"


def public_functions(body: list[ast.stmt], inside: str = ""):
    """(name, function, is it a method) of the public functions of a module, and of its public classes."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{node.name}.")
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in node.decorator_list)
            yield inside + node.name, node, bool(inside) and not static


def test_public_functions_are_annotated():
    """Every argument and what is returned: mypy reads no function without."""
    for path in MODULES:
        for name, function, method in public_functions(ast.parse(path.read_text()).body):
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs][method:]
            bare = [each.arg for each in arguments if each.annotation is None]
            bare += [] if function.returns else ["what it returns"]
            assert not bare, f"{name_of(path)}:{function.lineno} {name}: annotate {bare}"


def test_the_notebooks_are_there():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(1, 12)]


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=name_of)
def notebook(request):
    content = nbformat.read(request.param, as_version=4)
    nbformat.validate(content)
    return content


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook):
    return [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]


def test_a_notebook_has_one_parameters_cell_and_it_is_the_settings_class(notebook):
    (cell,) = parameters(notebook)
    assert cell.id == "parameters"
    name = re.search(r"\((\w+)\)", cell.source.splitlines()[0]).group(1)
    assert cell.source == getattr(settings, name).parameters_cell(), f"copy {name}.parameters_cell() into the notebook"
    assert any(f"{name}.from_notebook(globals())" in each.source for each in code(notebook))


def test_a_notebook_stores_no_outputs(notebook):
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code(notebook):
        assert not cell.outputs, f"clear the outputs of '{cell.id}'"
        assert cell.execution_count is None, f"clear the outputs of '{cell.id}'"


def test_cell_ids_can_be_read(notebook):
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for each in ids:
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", each), f"'{each}' is no readable id"
        assert not re.fullmatch(r"[0-9a-f]{8}", each), f"'{each}' was made by an editor; give it a name"


def test_a_notebook_calls_and_does_not_define(notebook):
    """Logic lives in the library, where it is tested; a notebook asks and shows."""
    heavy = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.While | ast.Try
    for cell in code(notebook):
        tree = ast.parse(cell.source)  # a magic or a shell line is a syntax error here, as it should be
        found = [type(node).__name__ for node in ast.walk(tree) if isinstance(node, heavy)]
        assert not found, f"cell '{cell.id}' holds {found}; move it into geofm_lib"
        if cell.id != "parameters":
            assert len(cell.source.splitlines()) <= MOST_CELL_LINES, f"cell '{cell.id}' is long"


def test_what_a_notebook_asks_of_a_module_is_there(notebook):
    """`throughput.memory(run)` with `from geofm_lib.figures import throughput` above: the module has `memory`."""
    modules = {}
    for cell in code(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom):
                package = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(package, alias.name):
                        modules[alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
                    elif isinstance(getattr(package, alias.name), types.ModuleType):
                        modules[alias.name] = getattr(package, alias.name)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                known = modules[node.value.id]
                assert hasattr(known, node.attr), f"cell '{cell.id}': {known.__name__} has no '{node.attr}'"


def test_a_notebook_asks_a_question_and_ends_with_its_colophon(notebook):
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert first.source.splitlines()[0].rstrip().endswith("?"), "the title is the question"
    assert last.id == "colophon"
    assert "colophon" in last.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_recorded_page_is_of_todays_notebook_and_answers_it(path):
    facts = json.loads((ROOT / "reports" / "recorded" / f"{path.stem}.json").read_text(encoding="utf-8"))
    today = notebook_outputs.digest(nbformat.read(path, as_version=4))
    assert facts["digest"] == today, f"the page is of an older notebook: make recorded NOTEBOOKS={path.stem}"
    assert facts["answer"]
    assert facts["picture"] or "is in the table yet" in facts["answer"], "07 has no figure before its first runs"


def readme():
    return (ROOT / "README.md").read_text()


def commands():
    """Every command of the README, in a block or between backticks, as words; `a && b` is two."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme(), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", readme(), flags=re.M | re.S))
    for line in [*lines, *spans]:
        for command in re.split(r"&&|;|\|", line):
            if re.match(r"\s*(\$ )?(make|sbatch|(\.venv/bin/)?(geofm|python|papermill|jupyter))\s", command):
                yield shlex.split(command.strip().removeprefix("$ "), comments=True)


def test_make_targets_in_the_readme_exist():
    targets = set(re.findall(r"^(\.?[a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
    asked = {word for words in commands() if words[0] == "make" for word in words[1:] if "=" not in word}
    assert {"reports", "test"} <= asked, "the README's two commands"
    assert asked <= targets, f"the README names {sorted(asked - targets)}, which the Makefile lacks"


def test_modules_and_notebooks_in_the_readme_exist():
    for module in re.findall(r"python -m (geofm_lib[\w.]*|tests[\w.]*)", readme()):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"the README runs {module}"
    for name in re.findall(r"\b((?:notebooks|batch)/[\w.-]+\.(?:ipynb|sh|py))", readme()):
        assert (ROOT / name).exists(), f"the README names {name}"


def test_settings_in_the_readme_exist():
    """`-p name value` after a notebook must be a setting of that notebook."""
    for words in commands():
        names = [words[i + 1] for i, word in enumerate(words) if word == "-p"]
        path = next((word for word in words if word.endswith(".ipynb") and word.startswith("notebooks/")), None)
        if names and path:
            (cell,) = parameters(nbformat.read(ROOT / path, as_version=4))
            fields = getattr(settings, re.search(r"\((\w+)\)", cell.source).group(1)).model_fields
            assert set(names) <= set(fields), f"README: {' '.join(words)}"


def test_links_in_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", readme()):
        if "://" not in target:
            assert (ROOT / target).exists(), f"the README links to {target}"


def test_files_of_the_repository_are_small():
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip("this copy is no git clone")
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    large = [name_of(path) for path in files if path.is_file() and path.stat().st_size > 2**20]
    assert not large, f"over 1 MiB: {large}"


def test_every_module_is_linted():
    """An exclusion of runs/, where run folders go, once took in the room geofm_lib/runs."""
    seen = subprocess.run([sys.executable, "-m", "ruff", "check", "--show-files", ROOT], capture_output=True, text=True)
    assert {str(file) for each in ("geofm_lib", "tests") for file in (ROOT / each).rglob("*.py")} <= set(
        seen.stdout.splitlines()
    )
