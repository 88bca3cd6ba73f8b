"""Work that another process does while the first one, which alone has some other work, goes on."""

import multiprocessing
import os
from collections.abc import Callable
from typing import TypeVar

from geofm_lib.data import pool

T = TypeVar("T")


def start(function: Callable[[], T], workers: int = 0) -> Callable[[], T]:
    """Begin `function` in a forked process; what comes back waits for what it gives, or raises what it raised.

    workers: as of `pool.samples`. With one, or where the process ends without an answer, the work is done when it is
    asked for.
    """
    if pool.processes(workers) == 1 or not pool.can_fork():
        return function
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_work, args=(function, send, os.getpid()), daemon=True)
    process.start()
    send.close()

    def answer() -> T:
        try:
            found, error = receive.recv()
        except EOFError:
            return function()
        process.join()
        if error:
            raise error
        return found

    return answer


def _work(function, send, parent: int) -> None:
    pool.start_process(parent)
    try:
        send.send((function(), None))
    except Exception as error:
        send.send((None, error))
