"""What is imported, and what is not: a rank's and the runner's start is mostly imports."""

import subprocess
import sys

MIB = 2**20
RANK = "from geofm_lib.jobs import imports, worker; imports.spare(); import geofm_lib.jobs.pretrain\n"
# Packages of a second or of many MiB that a rank of a pretraining does without.
UNUSED = ("sklearn", "scipy", "pandas", "matplotlib", "triton", "torchvision.ops.boxes", "torch._dynamo.utils")


def python(root, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_rank_imports_no_more_than_it_uses(root):
    found = f"import sys; print([name for name in {UNUSED!r} if name in sys.modules])\n"
    holds = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmRSS')))"
    train = """
import torch
layer = torch.nn.Linear(3, 2)
adam = torch.optim.AdamW(layer.parameters(), fused=True)
layer(torch.ones(3)).sum().backward()
adam.step()
adam.zero_grad()
"""
    loaded, kib = python(root, RANK + train + found + holds).splitlines()
    assert loaded == "[]"
    assert int(kib) * 1024 < 650 * MIB


def test_what_was_spared_is_all_there_when_it_is_asked_for(root):
    code = """
import timm, torch, torchvision
from torchvision.ops import nms
from torchvision.transforms import v2
assert nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5).tolist() == [0]
assert timm.create_model("vit_tiny_patch16_224", num_classes=7).head.out_features == 7
assert callable(timm.data.create_transform)
double = torch.compile(lambda x: 2 * x, backend="eager")
assert double(torch.ones(2)).tolist() == [2, 2]
import torch._dynamo.utils
assert torch._dynamo.disable.__module__ == "torch._dynamo.decorators"
print(torchvision.__version__ != "", timm.data.IMAGENET_DEFAULT_MEAN)
"""
    assert python(root, RANK + code) == "True (0.485, 0.456, 0.406)"


def test_who_imported_torch_before_is_left_alone(root):
    code = "import torch, sys; from geofm_lib.jobs import imports; imports.spare(); print('timm.data' in sys.modules)"
    assert python(root, code) == "False"


def test_notebooks_are_validated_without_the_grammar_of_addresses(root):
    code = """
import sys
import geofm_lib.report.execute, nbformat
print("lark" in sys.modules, "rfc3987_syntax" in sys.modules)
book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
nbformat.validate(book)
book.cells[0].cell_type = "other"
try:
    nbformat.validate(book)
except nbformat.ValidationError:
    print("refused")
"""
    assert python(root, code).split() == ["False", "False", "refused"]


def test_the_importing_thread_waits_for_a_launch(monkeypatch, tmp_path):
    from geofm_lib.runs import ahead

    asked = []
    monkeypatch.setenv("GEOFM_EXECUTION", str(tmp_path))
    monkeypatch.setattr(ahead, "LAUNCH_S", 0.0)
    monkeypatch.setattr(ahead, "POLL_S", 0.01)
    monkeypatch.setattr(ahead.importlib, "import_module", asked.append)
    monkeypatch.setattr(ahead.time, "sleep", lambda _: (tmp_path / "run").touch())
    ahead._wait("a", "b")
    assert asked == ["a", "b"]
