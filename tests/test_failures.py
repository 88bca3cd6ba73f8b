"""A run that dies of memory says what it needs, what there is and what would fit."""

import json
import subprocess
import sys

import pytest

from geofm_lib.advice import memory
from geofm_lib.report.page import render
from geofm_lib.runs.run import Run
from geofm_lib.settings import PretrainSettings, ThroughputSettings


@pytest.fixture
def run(tmp_path):
    """run(settings, ranks, **environment) -> a run folder as a launch leaves it."""

    def write(settings, ranks, **environment):
        stored = {"job": settings.job, "asked": settings.asked(), "resolved": {"ranks": ranks}}
        (tmp_path / "settings.json").write_text(json.dumps(stored))
        (tmp_path / "environment.json").write_text(json.dumps(environment))
        return Run(tmp_path)

    return write


def test_ranks_that_run_out_of_memory_say_what_would_fit(root, tmp_path):
    """A real run under `ulimit -v`: there is room for Python, torch (3.6 GB) and ViT-Base, not for 64 images of it."""
    asked = {"model": "ViT-Base", "strategy": "NO_SHARD", "ranks": 1, "device": "cpu", "image_size": 224,
             "batch_per_gpu": 64, "steps": 2, "warmup_steps": 1, "run_dir": str(tmp_path / "run")}  # fmt: skip
    code = "from geofm_lib.runs.launch import launch; from geofm_lib.settings import ThroughputSettings; " \
           f"launch(ThroughputSettings(**{asked}))"  # fmt: skip
    limited = ["bash", "-c", 'ulimit -v 4800000; exec "$@"', "bash", sys.executable, "-c", code]
    done = subprocess.run(limited, cwd=root, capture_output=True, text=True)
    told = Run(tmp_path / "run").summary
    assert done.returncode == 1
    assert "allocate memory" in told["cause"] or "MemoryError" in told["cause"]
    assert told["error"].startswith("out of memory; ViT-Base under NO_SHARD on 1 rank with 64 images a rank needs 6.30")
    assert "a process may map 4.58 GiB (ulimit -v), libraries included" in told["error"]
    assert told["error"].endswith("activation_checkpointing=True would fit (2.12 GiB)")
    assert f"rank 0 failed: {told['error']}" in done.stderr
    page = render(root / "notebooks" / "03_throughput.ipynb", tmp_path / "page.html", Run(tmp_path / "run"))
    assert told["error"] in page.read_text()


def explained(run, summary):
    return memory.explained(summary, run.job, run.settings, run.resolved["ranks"], run.environment)


def test_a_gpu_without_memory_names_its_own(run):
    settings = ThroughputSettings(model="ViT-3B", strategy="NO_SHARD", image_size=224, precision="bf16",
                                  workload="classify", activation_checkpointing=True)  # fmt: skip
    error = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 39.38 GiB of which"
    summary = {"status": "failed", "kind": "OutOfMemoryError", "error": f"OutOfMemoryError: {error}", "rank": 3}
    told = explained(run(settings, 8, device_type="cuda"), summary)
    assert "ViT-3B under NO_SHARD on 8 ranks with 32 images a rank needs 52.57 GiB a rank by" in told["error"]
    assert "its GPU has 39.38 GiB; strategy=HYBRID_2GPUs would fit (27.32 GiB)" in told["error"]
    assert told["cause"] == summary["error"]
    assert told["rank"] == 3
    assert explained(run(settings, 8), told) == told, "explained once"


def test_other_failures_keep_their_words(run):
    asked = run(PretrainSettings(), 2)
    for kind, error in (("NotFinite", "the loss is nan at step 3"), ("RuntimeError", "Connection closed by peer")):
        summary = {"status": "failed", "kind": kind, "error": error}
        assert explained(asked, summary) == summary
    killed = {"status": "failed", "error": "killed by signal 9 (SIGKILL); the machine may have run out of memory"}
    assert explained(asked, killed) == killed, "a small model was killed by somebody"
    large = run(PretrainSettings(model="ViT-15B", strategy="FULL_SHARD", image_size=224), 2)
    told = explained(large, killed)["error"]
    assert told.startswith(killed["error"] + "; ViT-15B under FULL_SHARD on 2 ranks")
    assert "the machine has" in told


CHANGES = [  # settings, ranks, GiB there -> the mildest change that fits
    ({"strategy": "NO_SHARD"}, 8, 16, {"strategy": "HYBRID_4GPUs"}, 8),
    ({"strategy": "FULL_SHARD", "activation_checkpointing": False, "batch_per_gpu": 64}, 8, 16,
     {"activation_checkpointing": True}, 8),
    ({"strategy": "FULL_SHARD", "batch_per_gpu": 256}, 8, 10, {"batch_per_gpu": 32}, 8),
    ({"strategy": "FULL_SHARD", "batch_per_gpu": 1}, 2, 16, {}, 4),
]  # fmt: skip


@pytest.mark.parametrize("odd, ranks, there, change, on", CHANGES, ids=["group", "recompute", "batch", "ranks"])
def test_the_mildest_change_comes_first(odd, ranks, there, change, on):
    usual = {"model": "ViT-3B", "workload": "classify", "image_size": 224, "precision": "bf16",
             "activation_checkpointing": True}  # fmt: skip
    settings = ThroughputSettings(**usual | odd)
    assert memory.peak_gib(settings, ranks) > there
    found, where, held = memory.first_change(settings, ranks, there)
    assert (found, where) == (change, on)
    assert held <= there
    assert memory.peak_gib(settings.model_copy(update=found), where) == held


def test_a_pretraining_keeps_its_result_and_takes_smaller_parts():
    settings = PretrainSettings(model="ViT-Base", image_size=224, global_batch=512, strategy="FULL_SHARD",
                                activation_checkpointing=True)  # fmt: skip
    change, ranks, _ = memory.first_change(settings, 2, 0.8 * memory.peak_gib(settings, 2))
    assert ranks == 2
    assert set(change) == {"max_batch_per_rank"}
    assert memory.first_change(settings, 2, 0.01) is None
