"""How ranks meet and part."""

import multiprocessing
import os
import time

from geofm_lib.distributed import context


def part(folder, rank, late_s):
    """One of two ranks, which comes to its end `late_s` after it has met the other; waits of a second are too long."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GEOFM_LAUNCH": "a"}
    joined = context.join(folder, "cpu")
    joined.store.set_timeout(context.timedelta(seconds=1))
    time.sleep(late_s)
    context.leave(joined)


def test_a_rank_that_is_done_waits_for_one_that_works_on(tmp_path):
    spawn = multiprocessing.get_context("fork")
    ranks = [spawn.Process(target=part, args=(tmp_path, rank, late_s)) for rank, late_s in ((0, 3), (1, 0))]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(60)
    assert [each.exitcode for each in ranks] == [0, 0]
