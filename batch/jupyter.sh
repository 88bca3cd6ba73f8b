#!/bin/bash
# JupyterLab inside an allocation, started by `sbatch -N 2 batch/slurm.sh jupyter` (or batch/frontier.sh, or either of
# them in the shell that salloc gave you). Its kernels see the allocation: launch(settings) in a cell starts ranks by
# srun on all its nodes. It listens on the node's own loopback address; the job's output names a file that says how to
# reach it.
set -eu
python="$1"
port="${GEOFM_PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}"
token="$("$python" -c 'import secrets; print(secrets.token_hex(16))')"
node="${SLURMD_NODENAME:-$(hostname)}" USER="${USER:-$(id -un)}"

# Whole paths: kernels start in other folders.
GEOFM_RUNS="$(realpath -m "${GEOFM_RUNS:-runs}")"
export GEOFM_RUNS

# The token stands in a file for your eyes only, not in the job's output.
note="$("$python" -c 'from geofm_lib.settings import own_folder; print(own_folder("queue"))')/jupyter-$SLURM_JOB_ID.txt"
mkdir -p "$(dirname "$note")"
(
  umask 077
  echo "On your own machine:  ssh -N -L $port:127.0.0.1:$port -J $USER@LOGIN_NODE $USER@$node
then in a browser:    http://127.0.0.1:$port/lab?token=$token
It ends with the job: scancel $SLURM_JOB_ID" > "$note"
)
echo "JupyterLab starts on $node; how to reach it: $note"

# Near the time limit (USR1) runs that a cell has started are asked to save; TERM ends the server.
export GEOFM_STOP="$note.stop"
rm -f "$GEOFM_STOP"
trap 'touch "$GEOFM_STOP"' USR1
trap 'kill "$lab"' TERM

# The token by the environment, not on the command line, which other users of the node can read.
export JUPYTER_PREFER_ENV_PATH=1 # kernels of this environment, not those in your home folder
export JUPYTER_TOKEN="$token"
root="" # a container's root user
if [ "$(id -u)" = 0 ]; then root="--allow-root"; fi
"$python" -m jupyterlab --no-browser --ip=127.0.0.1 --port="$port" --ServerApp.port_retries=0 --ServerApp.root_dir="$PWD" \
  --LabApp.app_settings_dir="$PWD/batch/lab" $root &
lab=$!
while kill -0 "$lab" 2>/dev/null; do wait "$lab" || true; done
