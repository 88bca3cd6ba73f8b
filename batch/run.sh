#!/bin/bash
# The end of every site's script: bash batch/run.sh PYTHON NOTEBOOK -p name value ...   (or: PYTHON jupyter)
#
# The runner works in the background and this shell waits, since bash runs a trap only then. USR1 (sbatch --signal, ahead
# of the time limit) and TERM (preemption) become a stop request: the ranks save, the runner ends with 75, and the job
# goes back into the queue to go on from there. So do HUP and INT (scancel --signal=INT --full). A run that stops twice
# without progress ends with 1 and stays out.
set -u
trap '' PIPE # a line that nobody takes must not end this shell before the job is queued again
python="$1" runner=""
shift
if [ "$1" = jupyter ]; then exec bash batch/jupyter.sh "$python"; fi

# Sent three times: in its first seconds the runner hears nothing (the signals are ignored until it listens).
# shellcheck disable=SC2329 # the trap calls it
ask() {
  for _ in 1 2 3; do
    kill -USR1 "$runner" 2>/dev/null || return 0
    sleep 15
  done
}
asked=""
trap 'asked=yes; if [ -n "$runner" ]; then ask & fi' USR1 TERM HUP INT
(
  trap '' USR1 TERM HUP INT
  exec "$python" -m geofm_lib run "$@"
) &
runner=$!
if [ -n "$asked" ]; then ask & fi # before the runner was known
wait "$runner"
code=$?
while [ -n "$asked" ]; do # a trap ends the wait, not the runner
  asked=""
  wait "$runner"
  code=$?
done

# Only a job that is RUNNING: not one that is being cancelled, nor one that Slurm itself queues again because a node failed.
# The controller of a busy site may not answer at once.
requeue() {
  local state
  for _ in 1 2 3 4 5 6; do
    if state="$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)"; then
      if [ "$state" != RUNNING ]; then
        echo "job $SLURM_JOB_ID is ${state:-no longer known}, so it is not queued again from here"
        return 1
      fi
      echo "queueing job $SLURM_JOB_ID again to go on"
      if scontrol requeue "$SLURM_JOB_ID"; then return 0; fi
    fi
    sleep 10
  done
  echo "Slurm did not take job $SLURM_JOB_ID back; submit it again to go on"
  return 1
}
if [ "$code" = 75 ] && requeue; then exit 0; fi
exit "$code"
