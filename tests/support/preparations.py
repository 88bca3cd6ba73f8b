"""Preparations that tests look into: in this process, or in a process of its own that may be killed or lose rights."""

import csv
import functools
import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

from geofm_lib.data import shards, verify
from geofm_lib.jobs import prepare
from geofm_lib.jobs.run_folder import Folder
from geofm_lib.settings import PrepareSettings


def summarised(folder: Path, dataset, options: dict) -> dict:
    """The summary of one preparation in this process; nothing of it is read again."""
    folder.mkdir(exist_ok=True)
    settings = PrepareSettings(dataset=str(dataset), run_dir=str(folder), **options)
    return prepare.run(settings, SimpleNamespace(is_main=True), Folder(folder))


def prepared(folder: Path, dataset, **options) -> tuple[dict, dict[str, str], dict[str, bytes]]:
    """(summary, {refused name: reason}, {packed name: bytes}) of one preparation in this process."""
    summary = summarised(folder, dataset, options)
    data = shards.Shards(folder)
    return summary, refused(folder), {name: data.read(i, verify=True) for i, name in enumerate(data.names)}


def refused(folder: Path) -> dict[str, str]:
    """{name: reason} of what a preparation has refused."""
    with open(folder / "refused.csv", encoding="utf-8", newline="") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}


def prepare_slowly(folder: Path, dataset, options: dict) -> None:
    """Prepare in a process group of its own, 4 ms an image: small ones are packed too fast to be interrupted."""
    os.setsid()
    check = verify.check

    def slow(*arguments):
        time.sleep(0.004)
        return check(*arguments)

    verify.check = slow
    prepared(folder, dataset, **options)


def apart(target, *arguments) -> multiprocessing.Process:
    """A started process that calls `target`, forked from one that has this module and no threads.

    A fork of the tests' own process would inherit the locks of threads that other tests have started.
    """
    process = server().Process(target=target, args=arguments)
    process.start()
    return process


@functools.cache
def server():
    """The process that `apart` forks from, ready: it has imported what there is to import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    first = context.Process(target=int)  # has ended once the server has imported
    first.start()
    first.join()
    return context
