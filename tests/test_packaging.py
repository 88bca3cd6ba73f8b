"""The one list of packages and everything derived from it: constraints, environment.yml, the Makefile, the licence."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import geofm_lib

# Import name -> package name, where they differ.
PACKAGE_OF = {"PIL": "pillow", "sklearn": "scikit-learn", "websocket": "websocket-client", "yaml": "pyyaml"}
APART = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*|pip|setuptools|geofm")  # pinned elsewhere or by torch


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def pins(path):
    """{name: version} of a constraints file in which every line must be name==version."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    for requirement in requirements:
        assert [each.operator for each in requirement.specifier] == ["=="], f"{requirement} is not an exact pin"
    names = {canonicalize_name(each.name): next(iter(each.specifier)).version for each in requirements}
    assert len(names) == len(lines), f"{path.name} names a package twice"
    return names


def declared(project):
    """Every package that pyproject.toml names, extras included."""
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def test_the_torch_of_a_site_is_allowed_and_kept(project, root):
    torch = declared(project)["torch"].specifier
    assert torch.contains("2.10.0")
    assert torch.contains("2.10.0+rocm7.1")
    assert not torch.contains("2.9.1")
    assert not declared(project)["torchvision"].specifier
    assert set(pins(root / "constraints-torch.txt")) == {"torch", "torchvision"}
    assert not [name for name in pins(root / "constraints.txt") if APART.fullmatch(name)]


def test_every_pin_fits_pyproject(project, root):
    pinned = {**pins(root / "constraints.txt"), **pins(root / "constraints-torch.txt")}
    for name, requirement in declared(project).items():
        assert requirement.specifier.contains(pinned[name]), f"{name}=={pinned[name]} against {requirement}"


def test_everything_that_would_be_installed_is_pinned(project, root):
    """The closure of the requirements over what is installed here: no package may float."""
    pinned, seen = pins(root / "constraints.txt"), set()
    waiting = [(name, frozenset(each.extras)) for name, each in declared(project).items()]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen or APART.fullmatch(name) and name not in ("torch", "torchvision"):
            continue
        seen.add((name, extras))
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # not for this platform
        for requirement in map(Requirement, lines):
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in extras or {""}
            ):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    floating = {name for name, _ in seen if name not in pinned and not APART.fullmatch(name)}
    assert not floating, f"pin {sorted(floating)} in constraints.txt"


def test_every_import_is_declared(project, root):
    """A package that is imported but not declared works only until somebody's environment lacks it."""
    known, undeclared = declared(project), {}  # what comes along with another package must be declared as well
    for path in [*root.glob("geofm_lib/**/*.py"), *root.glob("tests/*.py"), *root.glob("batch/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in {each.split(".")[0] for each in names}:
                local = name in ("geofm_lib", "tests") or (root / "tests" / f"{name}.py").exists()
                package = canonicalize_name(PACKAGE_OF.get(name, name))
                if not (local or name in sys.stdlib_module_names or package in known):
                    undeclared.setdefault(name, path.relative_to(root).as_posix())
    # nbconvert brings jinja2, pandas brings numpy, nbclient brings jupyter_client and traitlets: still, say so.
    assert not undeclared, f"declare in pyproject.toml: {undeclared}"


def test_environment_yml_installs_the_same_list(project, root):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    assert environment["name"] == "geofm"
    *conda, pip = environment["dependencies"]
    names = [re.match(r"[\w-]+", each).group() for each in conda]
    assert names == ["python", "pip"], "packages belong in pyproject.toml"
    version = next(each for each in conda if each.startswith("python")).split("=")[-1]
    assert (3, int(version.split(".")[1])) >= (3, 11)
    assert pip["pip"][0] == "-c constraints.txt", "conda hands pip these lines as a requirements file"
    (own,) = pip["pip"][1:]
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", own).group(1).split(",")
    assert set(extras) <= set(project["optional-dependencies"])


def test_make_and_environment_install_the_same_extras(root):
    extras = {
        re.search(r"-e '?\.(\[[\w,]+\])", (root / name).read_text()).group(1)
        for name in ("Makefile", "environment.yml")
    }
    assert len(extras) == 1


def test_versions_and_licence_agree(project, root):
    assert geofm_lib.__version__ == project["version"]
    assert f"version: {project['version']}" in (root / "CITATION.cff").read_text()
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert citation["license"] == project["license"] == "BSD-3-Clause"
    assert "geofm authors" in (root / "LICENSE").read_text()
    archived = json.loads((root / ".zenodo.json").read_text())
    for name in ("title", "version", "license", "keywords"):
        assert archived[name] == citation[name], name
    assert citation["preferred-citation"]["doi"] in {each["identifier"] for each in archived["related_identifiers"]}


def test_make_lists_its_targets(root):
    shown = subprocess.run(["make", "-C", str(root), "help"], capture_output=True, text=True, check=True).stdout
    for target in ("reports", "recorded", "test", "test-slurm", "test-long", "lint", "doctor", "clean"):
        assert re.search(rf"^  {target} ", shown, re.M), f"make help does not list {target}"


def test_jupyterlab_opens_over_the_whole_clone(root):
    shown = subprocess.run(["make", "-n", "-C", str(root), "lab"], capture_output=True, text=True, check=True).stdout
    assert f'--ServerApp.root_dir="{root}"' in shown, "README, runs and pages are reachable"
    saves = json.loads((root / "batch" / "lab" / "overrides.json").read_text())[
        "@jupyterlab/docmanager-extension:plugin"
    ]
    assert f'--LabApp.app_settings_dir="{root}/batch/lab"' in shown
    assert saves["autosaveInterval"] <= 10, "what a browser shows that was closed and opened again"


def test_make_refuses_an_old_python_in_one_sentence(root, tmp_path):
    old = tmp_path / "python3.8"
    old.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 8, 0)\n'\"$2\"\n")
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-torch.txt"):
        (tmp_path / name).write_text((root / name).read_text())
    done = subprocess.run(["make", "-C", str(tmp_path), ".venv", f"PYTHON={old}"], capture_output=True, text=True)
    assert done.returncode
    assert "needs Python 3.11 or newer" in done.stderr
    assert "is 3.8" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_notebook_that_fails_does_not_keep_the_others_from_their_pages(root, tmp_path):
    """`make reports` with a stand-in for .venv/bin/python that only says what it was asked, and fails for 03."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "ran: $*"\ncase "$*" in *03_throughput*) exit 1;; esac\n')
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-torch.txt"):
        (tmp_path / name).write_text((root / name).read_text())
    (tmp_path / ".venv" / ".installed").touch()
    done = subprocess.run(["make", "-C", str(tmp_path), "reports", "RANKS=3"], capture_output=True, text=True)
    ran = [line for line in done.stdout.splitlines() if line.startswith("ran: ")]
    pages = [line for line in ran if "--page" in line]
    assert len(pages) == len(list((root / "notebooks").glob("*.ipynb")))
    assert "02_pretrain.html -p ranks 3" in pages[1]
    assert all(re.search(r" run (\w+) --page reports/\1\.html", line) for line in pages)
    others = [line for line in ran[:-1] if line not in pages]  # the same measurement under other strategies
    assert others
    assert all("run 03_throughput " in line and " -p strategy " in line for line in others)
    assert ran[-1] == "ran: -m geofm_lib report --index reports"
    assert done.returncode
    assert "failed: 03_throughput" in done.stderr
    assert "reports/index.html" in done.stdout
