#!/bin/bash
# The end of every site's script: bash batch/run.sh PYTHON NOTEBOOK -p name value ...   (or: PYTHON jupyter)
#
# The runner works in the background and this shell waits, since bash runs a trap only then. USR1 (sbatch --signal, ahead
# of the time limit) and TERM (preemption) become a stop request: the ranks save, the runner ends with 75, and the job
# goes back into the queue to go on from there. A run that stops twice without progress ends with 1 and stays out.
set -u
python="$1" asked="" runner=""
shift
if [ "$1" = jupyter ]; then exec bash batch/jupyter.sh "$python"; fi

trap 'asked=yes; kill -USR1 "$runner" 2>/dev/null' USR1 TERM
"$python" -m geofm_lib.desk.execute "$@" &
runner=$!
if [ -n "$asked" ]; then kill -USR1 "$runner"; fi
wait "$runner"
code=$?
while [ -n "$asked" ]; do # a trap ends the wait, not the runner
  asked=""
  wait "$runner"
  code=$?
done

# 138 and 143: the signal came in the first seconds, before the runner could hear it. RUNNING: not when the job is being
# cancelled, nor when Slurm itself queues it again because a node failed.
case "$code" in 75 | 138 | 143)
  if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "queueing job $SLURM_JOB_ID again to go on"
    scontrol requeue "$SLURM_JOB_ID" && exit 0
  fi
  ;;
esac
exit "$code"
