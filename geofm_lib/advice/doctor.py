"""`geofm doctor`: one page that says what this machine can run, and what is missing for which notebook, with the fix.

Exit code 0 when all notebooks can run here. `ROWS` has a line for each thing that is looked at, with who needs it
and how to mend it; the functions below only look. torch is asked in a short process of its own.
"""

import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from geofm_lib.advice import waiting
from geofm_lib.settings import runs_root

NOTEBOOKS = ("01_data", "02_pretrain", "03_throughput", "04_scaling", "05_probe", "06_paper", "07_accuracy",
             "08_transfer", "09_objectives", "10_compare", "11_peers")  # fmt: skip
TORCH = ("01_data", "02_pretrain", "03_throughput", "05_probe", "08_transfer", "11_peers")  # those that start torch
FREE_DISK_GIB = 2  # the runs and pages of `make reports`, with room to spare
FREE_MEMORY_GIB = 3  # two ranks at laptop size and the kernel beside them
ASK_TORCH_S = 300  # a cold import from a shared file system can take minutes

ROWS = {  # what is looked at: (section, who cannot run without it, the fix)
    "Python": ("software", NOTEBOOKS, "make .venv PYTHON=python3.12 (geofm needs Python 3.11 or newer)"),
    "packages": ("software", NOTEBOOKS, "make .venv"),
    "torch": ("software", TORCH, "make clean .venv, or install your site's build of torch 2.10 or newer"),
    "torchvision": ("software", TORCH, "install the torchvision that fits this torch, from the place torch came from"),
    "timm": ("software", TORCH, "install the timm that fits this torch"),
    "rasterio": ("software", ("01_data of TIFF and JPEG 2000",), "pip install 'rasterio>=1.4' (with GDAL)"),
    "devices": ("machine", (), ""),
    "matrix products": ("machine", (), ""),
    "ranks": ("machine", (), ""),
    "waiting threads": ("machine", (), ""),
    "memory": ("machine", TORCH, f"free {FREE_MEMORY_GIB} GiB: end other programs, or take ranks=1 and less a batch"),
    "disk": ("machine", TORCH, f"free {FREE_DISK_GIB} GiB, or set GEOFM_RUNS to a folder with room"),
    "run folders": ("machine", TORCH, "make that folder writable, or set GEOFM_RUNS to one that is"),
    "commands": ("Slurm", (), "on a cluster's login node sinfo and srun are on the PATH; for make test-slurm: apt "
                              "install slurm-wlm munge"),
    "allocation": ("Slurm", (), ""),
    "JupyterLab": ("extras", ("working by hand",), "pip install -e '.[notebooks]' -c constraints.txt"),
    "Chromium": ("extras", ("make test's browser tests",), "apt install chromium chromium-driver"),
}  # fmt: skip


# GDAL's formats, and compressions of TIFF -> the files that cannot be read without them.
DRIVERS = {"GTiff": "TIFF", "JP2OpenJPEG": "JPEG 2000", "PNG": "PNG of 16 bits"}
CODECS = {
    "DEFLATE": "TIFFs packed by DEFLATE", "LZW": "by LZW", "JPEG": "by JPEG", "ZSTD": "by ZSTD", "LERC": "by LERC",
    "WEBP": "by WebP", "LZMA": "by LZMA",
}  # fmt: skip


class Check(NamedTuple):
    """What was found of a row of ROWS."""

    name: str
    value: str
    ok: bool = True


def ask_torch() -> dict[str, Any]:
    """What `geofm_lib.profiling.devices packages` says, or {"error": its last line} when torch does not start."""
    command = [sys.executable, "-m", "geofm_lib.profiling.devices", "packages"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_TORCH_S)
    except subprocess.TimeoutExpired:
        return {"error": f"importing torch took more than {ASK_TORCH_S} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["torch ended without a message"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def software(torch: dict[str, Any]) -> list[Check]:
    """Python, the packages of pyproject.toml, torch and the two packages that must fit it."""
    absent = missing_packages()
    checks = [
        Check("Python", f"{platform.python_version()} at {sys.executable}", sys.version_info >= (3, 11)),
        Check("packages", f"missing: {', '.join(absent)}" if absent else "all of pyproject.toml", not absent),
    ]
    if "error" in torch:
        return [*checks, Check("torch", torch["error"], False)]
    build = f"{torch['torch']}, built for {torch['build']} {torch['build_version']}".rstrip()
    new_enough = tuple(int(part) for part in re.findall(r"\d+", torch["torch"])[:2]) >= (2, 10)
    beside = [Check(name, found, not found.startswith("error")) for name, found in torch["packages"].items()]
    return [*checks, Check("torch", build, new_enough), *beside]


def gdal() -> Check:
    """rasterio and its GDAL, with what it reads, or what is missing and for which files."""
    try:
        import rasterio
        from rasterio.errors import RasterioError
    except Exception as error:  # not installed, or libraries that do not fit: whatever it is, it is the answer
        return Check("rasterio", f"no TIFF and no JPEG 2000 can be read: {error}", False)

    def packs(codec: str) -> bool:
        size = {"width": 16, "height": 16, "count": 1, "dtype": "uint8", "transform": rasterio.Affine.scale(2)}
        try:
            with rasterio.MemoryFile() as file:
                file.open(driver="GTiff", compress=codec, **size).close()
                with file.open() as written:
                    return written.compression is not None  # GDAL leaves out what it does not know
        except RasterioError:
            return False

    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    with rasterio.Env() as env:
        known = env.drivers()
        absent = [f"{name} ({what})" for name, what in DRIVERS.items() if name not in known]
        absent += [f"{name} ({what})" for name, what in CODECS.items() if not packs(name)]
    versions = f"{rasterio.__version__}, GDAL {rasterio.__gdal_version__}"
    return Check(
        "rasterio", f"{versions}: {'missing ' if absent else ''}{', '.join(absent or [*DRIVERS, *CODECS])}", not absent
    )


def missing_packages() -> list[str]:
    """Names in geofm's own list of requirements (extras apart) that are not installed. rasterio has its own row."""
    try:
        required = metadata.requires("geofm") or []
    except metadata.PackageNotFoundError:
        return ["geofm itself (pip install -e .)"]
    names = [re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line]
    return [name for name in names if not _version(name) and name != "rasterio"]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def machine(torch: dict[str, Any], runs: Path) -> list[Check]:
    """Devices and their measured speed, ranks, memory and disk."""
    memory = psutil.virtual_memory()
    nearest = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.exists())
    disk, writable = shutil.disk_usage(nearest).free / 2**30, nearest.is_dir() and os.access(nearest, os.W_OK)
    free = f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f}"
    checks = [
        Check("waiting threads", waiting.told(os.environ)),
        Check("memory", free, memory.available / 2**30 >= FREE_MEMORY_GIB),
        Check("disk", f"{disk:.1f} GiB free for {runs}/", disk >= FREE_DISK_GIB),
        Check("run folders", f"written below {runs}/" if writable else f"{nearest} is not writable", writable),
    ]
    if "error" in torch:
        return checks
    peaks = ", ".join(f"{name} {peak:g} TFLOP/s" for name, peak in torch["peak_tflops"].items())
    where = "a device" if torch["count"] else f"on {torch['cores']} cores"
    products = Check("matrix products", f"measured peak {peaks} {where}")
    return [Check("devices", describe_devices(torch)), products, Check("ranks", describe_ranks(torch)), *checks]


def describe_devices(torch: dict[str, Any]) -> str:
    """`4 x AMD Instinct MI250X (64.0 GiB each)`, or that the CPU is used."""
    if not torch["count"]:
        wanted = {"cuda": "; this torch could use an NVIDIA GPU", "rocm": "; this torch could use an AMD GPU"}
        return f"no GPU: everything runs on the CPU{wanted.get(torch['build'], '')}"
    kinds = [f"{torch['names'].count(name)} x {name}" for name in dict.fromkeys(torch["names"])]
    return f"{', '.join(kinds)} ({torch['memory_gib'][0]} GiB each)"


def describe_ranks(torch: dict[str, Any]) -> str:
    """How many ranks `ranks=0` starts here: the tasks of the allocation, else one a device, else one."""
    tasks = os.environ.get("SLURM_NTASKS") if "SLURM_JOB_ID" in os.environ else None
    if tasks:
        return f"{tasks} by default, one for each task of this allocation"
    if torch["count"]:
        return f"{torch['count']} by default, one for each device"
    return f"1 by default; up to {torch['cores']} are sensible here (-p ranks {min(2, torch['cores'])})"


def slurm() -> list[Check]:
    """Is there a Slurm to submit to, and are we inside an allocation?"""
    if shutil.which("sinfo") is None or shutil.which("srun") is None:
        return [Check("commands", "none here: ranks are started as local processes", False)]
    command = ["sinfo", "--noheader", "--format=%P %D nodes %t"]
    try:
        partitions = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except subprocess.TimeoutExpired:
        partitions = ""
    answer = partitions.replace("\n", "; ") or "installed, but no cluster answers"
    job = os.environ.get("SLURM_JOB_ID")
    where = f"inside job {job} on {os.environ.get('SLURM_JOB_NODELIST', '?')}" if job else "not inside an allocation"
    return [Check("commands", answer), Check("allocation", where)]


def extras() -> list[Check]:
    """What only some uses need: JupyterLab to work by hand, Chromium for the tests that drive a browser."""
    lab, driver = _version("jupyterlab"), shutil.which("chromedriver")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    found = f"{browser or 'no browser'}, {driver or 'no chromedriver'}"
    return [Check("JupyterLab", lab or "not installed", bool(lab)), Check("Chromium", found, bool(browser and driver))]


def verdicts(checks: list[Check]) -> dict[str, list[Check]]:
    """For each notebook, the failed checks that keep it from running (none: it can run)."""
    return {name: [check for check in checks if not check.ok and name in ROWS[check.name][1]] for name in NOTEBOOKS}


def page(checks: list[Check]) -> str:
    """The page as text."""
    lines, before = ["What this machine can do for geofm"], ""
    for check in checks:
        section, needed_by, fix = ROWS[check.name]
        if section != before:
            before = section
            lines += ["", section]
        lines.append(f"  {'ok' if check.ok else '--'}  {check.name:<16} {check.value}")
        if not check.ok:
            needed = f"needed by {', '.join(needed_by)}; " if needed_by else ""
            lines.append(f"      {'':<16} {needed}fix: {fix}")
    lines += ["", "notebooks"]
    for name, faults in verdicts(checks).items():
        answer = "can run" if not faults else "cannot run: " + ", ".join(check.name for check in faults)
        lines.append(f"  {'--' if faults else 'ok'}  {name:<16} {answer}")
    return "\n".join(lines)


def main() -> int:
    """Print the page; 0 when every notebook can run."""
    torch = ask_torch()
    checks = [*software(torch), gdal(), *machine(torch, runs_root()), *slurm(), *extras()]
    print(page(checks))
    return int(any(verdicts(checks).values()))
