"""`make doctor` and the device survey behind it, against this machine and against machines it is told about."""

import json
import subprocess
import sys

import pytest
import torch

from geofm_lib.advice import doctor, waiting
from geofm_lib.profiling import devices

FOUR_GPUS = {
    "torch": "2.10.0+rocm7.1", "build": "rocm", "build_version": "7.1", "kind": "rocm", "count": 4, "cores": 56,
    "names": ["AMD Instinct MI250X"] * 4, "memory_gib": [64.0] * 4, "backends": ["gloo", "nccl"],
    "packages": {"torchvision": "0.25.0", "timm": "1.0.31"}, "peak_tflops": {"fp32": 20.0, "bf16": 140.0},
}  # fmt: skip


@pytest.fixture
def outside_slurm(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_JOB_NODELIST"):
        monkeypatch.delenv(name, raising=False)


def faults(checks):
    return {name: [check.name for check in failed] for name, failed in doctor.verdicts(checks).items() if failed}


def test_the_page_of_this_machine(root):
    done = subprocess.run([sys.executable, "-m", "geofm_lib", "doctor"], capture_output=True, text=True, cwd=root)
    for words in ("software", "machine", "Slurm", "extras", "notebooks", *doctor.NOTEBOOKS, "TFLOP/s"):
        assert words in done.stdout
    assert done.returncode == int("cannot run" in done.stdout)
    assert "Traceback" not in done.stderr


def test_devices_count_is_what_torch_says(root):
    done = subprocess.run(
        [sys.executable, "-m", "geofm_lib.profiling.devices"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    answer = json.loads(done.stdout)
    assert answer["count"] == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert answer["kind"] in ("cpu", "cuda", "rocm")
    assert answer["cores"] >= 1
    assert "gloo" in answer["backends"]
    assert "peak_tflops" not in answer


def test_a_measured_peak_is_a_speed():
    peak = devices.matmul_peak("fp32", torch.device("cpu"), seconds=0.05)
    assert 1e-4 < peak < 1e3  # TFLOP/s: between a wrist watch and a rack


def test_a_package_that_does_not_fit_torch_is_named(monkeypatch, tmp_path):
    (tmp_path / "misfit.py").write_text("raise RuntimeError('operator misfit::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(doctor, "missing_packages", lambda: [])
    assert devices.packages(("misfit",)) == {"misfit": "error: RuntimeError: operator misfit::nms does not exist"}
    broken = FOUR_GPUS | {"packages": {"torchvision": "error: RuntimeError: operator torchvision::nms does not exist"}}
    assert set(faults(doctor.software(broken))) == {
        "01_data",
        "02_pretrain",
        "03_throughput",
        "05_probe",
        "08_transfer",
        "11_peers",
    }


def test_four_gpus_are_four_ranks(outside_slurm):
    assert doctor.describe_ranks(FOUR_GPUS).startswith("4 by default")
    assert doctor.describe_devices(FOUR_GPUS) == "4 x AMD Instinct MI250X (64.0 GiB each)"


def test_an_allocation_says_how_many_ranks(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "16")
    assert doctor.describe_ranks(FOUR_GPUS).startswith("16 by default")


def test_how_threads_wait_is_the_users_choice_or_ours():
    assert waiting.variables({}) == {"GOMP_SPINCOUNT": str(waiting.SPINS)}
    assert waiting.variables({"OMP_WAIT_POLICY": "active"}) == {}
    assert waiting.told({"OMP_WAIT_POLICY": "active"}) == "as OMP_WAIT_POLICY=active says"
    assert "then sleeps" in waiting.told({})


def test_an_old_torch_is_refused_with_the_fix():
    assert "torch" in faults(doctor.software(FOUR_GPUS | {"torch": "2.9.1"}))["02_pretrain"]
    assert "torch" not in faults(doctor.software(FOUR_GPUS)).get("02_pretrain", [])


def test_a_torch_that_does_not_start_stops_only_the_notebooks_that_need_it(monkeypatch):
    monkeypatch.setattr(doctor, "missing_packages", lambda: [])
    checks = doctor.software({"error": "ImportError: libcudart.so.13: cannot open shared object file"})
    assert set(faults(checks)) == {"01_data", "02_pretrain", "03_throughput", "05_probe", "08_transfer", "11_peers"}
    page = doctor.page(checks)
    assert "libcudart.so.13" in page
    assert "fix: make clean .venv" in page
    assert "ok  04_scaling" in page


def test_a_full_disk_and_an_unwritable_folder_are_named(monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert "disk" in faults(doctor.machine(FOUR_GPUS, tmp_path / "runs"))["01_data"]
    (tmp_path / "file").write_text("")
    assert "run folders" in faults(doctor.machine(FOUR_GPUS, tmp_path / "file" / "runs"))["02_pretrain"]


def test_missing_packages_are_named(monkeypatch):
    listed = ["torch>=2.10", "no-such-package>=1", "another; extra == 'test'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: listed)
    assert doctor.missing_packages() == ["no-such-package"]


def test_slurm_is_seen_or_said_to_be_absent(monkeypatch, outside_slurm):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    (check,) = doctor.slurm()
    assert not check.ok
    assert not doctor.ROWS[check.name][1]
    assert "local processes" in check.value


def test_what_gdal_reads_is_listed_and_what_it_lacks_names_the_files(monkeypatch):
    check = doctor.gdal()
    assert check.ok
    for words in ("GDAL 3.", "JP2OpenJPEG", "ZSTD", "LERC"):
        assert words in check.value
    monkeypatch.setattr(doctor, "DRIVERS", {"NoSuchDriver": "files of no kind"})
    monkeypatch.setattr(doctor, "CODECS", {"NO_SUCH": "by nothing"})
    check = doctor.gdal()
    assert not check.ok
    assert check.value.endswith("missing NoSuchDriver (files of no kind), NO_SUCH (by nothing)")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    check = doctor.gdal()
    assert "no TIFF and no JPEG 2000 can be read" in check.value
    assert "pip install 'rasterio>=1.4'" in doctor.page([check])
    assert not faults([check]), "JPEGs and drawn scenes are prepared without it"
