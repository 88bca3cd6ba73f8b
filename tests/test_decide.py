"""Every way in which a run can end, as the pure function `endings.decide` sees it: no processes, no files, no clock."""

import dataclasses
import os
import signal

import pytest

from geofm_lib.jobs.run_folder import LAUNCHER_GONE
from geofm_lib.runs.endings import BY_FORCE, ECHOES, KILL_S, PARTNERS_S, WAYS, Do, Event, Observations, decide, way

RUNNING = Observations(exit_codes=(None, None), now=1000.0, folder="runs/x", save_s=240.0, timeout_s=60.0)
ENDED = dataclasses.replace(RUNNING, exit_codes=(0, 0))
SRUN = dataclasses.replace(RUNNING, exit_codes=(None,), by_srun=True)
LOST_PARTNER = {"status": "failed", "kind": "RuntimeError", "error": "Connection closed by peer", "rank": 0}
OWN = {"status": "failed", "kind": "NotFinite", "error": "the loss is nan", "rank": 1}


def seen(base: Observations, **more) -> Observations:
    return dataclasses.replace(base, **more)


def do(base: Observations, **more) -> Do:
    return decide(seen(base, **more)).do


def ending(base: Observations = ENDED, **more) -> tuple[str, dict]:
    """(the row of WAYS, the summary); Slurm has said that no node is down, unless told otherwise."""
    sight = seen(base, **{"down": "", **more})
    action = decide(sight)
    assert action.do is Do.CONCLUDE
    return way(sight).name, action.summary


def due(event: Event, seconds: float, **more) -> None:
    """The ranks are ended so many seconds after this was seen, and not before."""
    assert do(RUNNING, since={event: RUNNING.now - seconds + 0.1}, **more) is not Do.END
    assert do(RUNNING, since={event: RUNNING.now - seconds}, **more) is Do.END


# ---------------------------------------------------------------- while ranks live


def test_ranks_that_work_are_left_alone():
    assert do(RUNNING) is Do.WAIT
    assert do(RUNNING, exit_codes=(0, None)) is Do.WAIT, "one is done before the other"


def test_a_stop_is_passed_on_and_the_ranks_get_their_time_to_save():
    assert do(RUNNING, stop_wanted=True) is Do.LEAVE_STOP
    assert do(RUNNING, stop_wanted=True, stop_left=True) is Do.WAIT
    due(Event.STOP_ASKED, 240.0, stop_left=True)
    due(Event.STOP_ASKED, 40.0, stop_left=True, save_s=40.0)


def test_a_second_interrupt_ends_them_at_once():
    since = {Event.STOP_ASKED: RUNNING.now - 1}
    assert do(RUNNING, since=since, stop_wanted=True, stop_left=True) is Do.WAIT
    assert do(RUNNING, since=since | {Event.INTERRUPTED_TWICE: RUNNING.now}, stop_wanted=True) is Do.END


def test_a_job_that_cannot_stop_is_ended_at_once():
    due(Event.STOP_ASKED, 0.0, job="throughput")


def test_partners_of_a_failed_rank_get_a_few_seconds():
    due(Event.RANK_FAILED, PARTNERS_S, exit_codes=(1, None))


def test_a_silent_rank_is_asked_about_before_the_run_is_ended():
    since = {Event.RANK_SILENT: RUNNING.now}
    assert do(RUNNING, silent=(1,), since=since) is Do.ASK_WAITING
    assert do(RUNNING, silent=(1,), since=since, waiting_asked=True) is Do.WAIT
    due(Event.RANK_SILENT, 7.0, silent=(1,), waiting_asked=True, heartbeat_s=2.0)


def test_ranks_that_do_not_end_after_their_summary_are_ended():
    due(Event.SUMMARY_WRITTEN, 60.0)
    due(Event.SUMMARY_WRITTEN, 15.0, timeout_s=15.0)


def test_a_lost_folder_ends_the_run_at_once():
    due(Event.FOLDER_LOST, 0.0)


def test_the_earliest_bound_counts():
    since = {Event.STOP_ASKED: RUNNING.now - 10, Event.RANK_FAILED: RUNNING.now - PARTNERS_S}
    assert do(RUNNING, since=since, stop_left=True) is Do.END


def test_an_srun_that_does_not_end_its_ranks_is_ended_itself():
    since = {Event.FOLDER_LOST: 0.0}
    assert do(SRUN, since=since, ended_at=SRUN.now - KILL_S) is Do.WAIT
    assert do(SRUN, since=since, ended_at=SRUN.now - KILL_S - 0.1) is Do.KILL


# ---------------------------------------------------------------- when all have ended


def test_finished():
    whole = {"status": "finished", "ranks": 2}
    assert ending(summary=whole) == ("finished", whole)
    late = {Event.SUMMARY_WRITTEN: 900.0}
    assert ending(exit_codes=(0, -9), since=late, ended_at=960.0, summary=whole) == ("finished", whole)


def test_stop_asked_and_followed():
    saved = {"status": "stopped", "reason": "saved at step 9"}
    assert ending(summary=saved, since={Event.STOP_ASKED: 990.0}) == ("stopped as asked", saved)


@pytest.mark.parametrize("events", [(Event.STOP_ASKED,), (Event.STOP_ASKED, Event.INTERRUPTED_TWICE)])
def test_stop_asked_and_not_followed(events):
    name, summary = ending(exit_codes=(-9, -9), since=dict.fromkeys(events, 900.0), ended_at=990.0)
    assert (name, summary["status"]) == ("stop not followed", "stopped")
    assert "before they could save" in summary["reason"]
    assert "last checkpoint" in summary["reason"]


def test_a_job_without_stop_keeps_nothing():
    name, summary = ending(job="throughput", exit_codes=(-9, -9), since={Event.STOP_ASKED: 999.0}, ended_at=999.0)
    assert (name, summary["status"]) == ("stop not followed", "stopped")
    assert "keeps nothing" in summary["reason"]


def test_a_rank_failed_in_its_own_words():
    assert ending(exit_codes=(1, 1), first_failed={1: 1}, summary=OWN) == ("rank failed in its own words", OWN)
    killed = ending(exit_codes=(-9, 1), first_failed={0: -9, 1: 1}, summary=OWN)
    assert killed == ("rank failed in its own words", OWN), "what it says of itself is no echo"


def test_killed_by_a_signal():
    name, summary = ending(exit_codes=(1, -9), first_failed={1: -9})
    assert (name, summary["rank"]) == ("killed by a signal", 1)
    assert "signal 9 (SIGKILL)" in summary["error"]
    assert "may have run out of memory" in summary["error"]
    assert "memory" not in ending(exit_codes=(-signal.SIGTERM, 1), first_failed={0: -15})[1]["error"]
    assert "signal 125 (unknown)" in ending(exit_codes=(-125, 1))[1]["error"]


@pytest.mark.parametrize("kind", ECHOES)
def test_partners_of_a_killed_rank_only_echo_its_death(kind):
    name, summary = ending(exit_codes=(1, -9), first_failed={0: 1, 1: -9}, summary=LOST_PARTNER | {"kind": kind})
    assert (name, summary["rank"]) == ("killed by a signal", 1), "though both were seen to end together"


def test_an_echo_stands_where_nobody_was_killed():
    name, summary = ending(exit_codes=(1, 1), first_failed={0: 1}, summary=LOST_PARTNER)
    assert (name, summary) == ("rank failed in its own words", LOST_PARTNER)


@pytest.mark.parametrize("step, sentence", [(0, "rank 1 (never heard)"), (7, "rank 1 on node2 (last step 7)")])
def test_a_silent_rank(step, sentence):
    """Before the first step and after: `liveness` knows the other bound, the end is the same."""
    silent = {"silent": (1,), "silence": f"no sign of life for 60 s from {sentence}", "waiting_asked": True}
    name, summary = ending(exit_codes=(-9, -9), first_failed={0: -9, 1: -9}, ended_at=999.0, **silent)
    assert name == "rank silent"
    assert sentence in summary["error"]
    assert summary["hung"] == [1]
    assert ending(exit_codes=(1, -9), summary=LOST_PARTNER, **silent)[0] == "rank silent"


@pytest.mark.parametrize("why", ["the folder is gone", "the disk is full", "cannot be written (over quota)"])
def test_the_folder_was_lost_for_the_launcher(why):
    name, summary = ending(exit_codes=(-9, -9), since={Event.FOLDER_LOST: 999.0}, ended_at=999.0, lost=why)
    assert (name, summary["status"], summary["error"]) == ("folder lost", "failed", why)


def test_a_rank_could_not_write():
    name, summary = ending(exit_codes=(os.EX_IOERR, 1), first_failed={0: os.EX_IOERR}, disk="the disk is full")
    assert (name, summary["error"], summary["rank"]) == ("a rank lost the disk", "the disk is full", 0)


@pytest.mark.parametrize(
    "code, task, told",
    [(137, "node2: task 1: Killed", "signal 9 (SIGKILL) (node2: task 1: Killed)"),
     (143, "node2: task 1: Terminated", "signal 15 (SIGTERM)"),
     (253, "", "signal 125 (unknown)")],
)  # fmt: skip
def test_a_task_that_srun_saw_die(code, task, told):
    name, summary = ending(SRUN, exit_codes=(code,), first_failed={0: code}, task=task, summary=LOST_PARTNER)
    assert name == "killed by a signal"
    assert told in summary["error"]
    assert summary["rank"] == (1 if task else None)


def test_a_task_that_ended_with_a_code_of_its_own():
    task = "node1: task 3: Exited with exit code 74"
    name, summary = ending(SRUN, exit_codes=(74,), first_failed={0: 74}, task=task, disk="the disk is full")
    assert (name, summary["rank"]) == ("a rank lost the disk", 3)


@pytest.mark.parametrize("code", [253, 1, 137])
def test_out_of_memory(code):
    words = {"task": "node2: task 3: Out Of Memory", "summary": LOST_PARTNER}
    name, summary = ending(SRUN, exit_codes=(code,), first_failed={0: code}, **words)
    assert (name, summary["rank"]) == ("out of memory", 3)
    assert "out of host memory (node2: task 3: Out Of Memory)" in summary["error"]


def test_a_node_is_down():
    down = "node2 of this job is down (power)"
    name, summary = ending(SRUN, exit_codes=(1,), down=down, saved_step=12, summary=LOST_PARTNER)
    assert (name, summary["status"]) == ("node down", "failed")
    assert down in summary["error"]
    assert "from step 12" in summary["error"]
    saved = {"status": "stopped", "reason": "saved at step 12"}
    assert ending(SRUN, exit_codes=(1,), down=down, summary=saved)[1]["status"] == "failed", "srun has named the node"
    assert ending(SRUN, exit_codes=(0,), down=down, summary={"status": "finished"})[0] == "finished"


@pytest.mark.parametrize(
    "summary, asked",
    [({}, True), (LOST_PARTNER, True), (OWN, False), ({"status": "stopped"}, False), ({"status": "finished"}, False)],
)
def test_slurm_is_asked_for_its_nodes_only_where_they_may_be_the_cause(summary, asked):
    assert (do(SRUN, exit_codes=(1,), summary=summary) is Do.ASK_SLURM) == asked


def test_the_launcher_was_gone():
    name, summary = ending(exit_codes=(LAUNCHER_GONE, 1), first_failed={0: LAUNCHER_GONE}, summary=LOST_PARTNER)
    assert name == "launcher gone"
    assert "runs/x" in summary["error"]
    assert summary["rank"] == 0


def test_ended_without_a_word():
    name, summary = ending(exit_codes=(3, 0), first_failed={0: 3})
    assert name == "without a word"
    assert "[3, 0]" in summary["error"]
    assert summary["rank"] is None


def test_every_row_has_a_name_of_its_own():
    names = [each.name for each in WAYS]
    assert len(set(names)) == len(names)
    assert {each.name for each in BY_FORCE} < set(names)
