#!/bin/bash
# JupyterLab inside an allocation, started by `sbatch -N 2 batch/slurm.sh jupyter` (or batch/frontier.sh, or either of
# them in the shell that salloc gave you). Its kernels see the allocation: launch(settings) in a cell starts ranks by
# srun on all its nodes. It listens on the node's own loopback address; the output of the job says how to reach it.
set -eu
python="$1"
port="${GEOFM_PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}"
token="$("$python" -c 'import secrets; print(secrets.token_hex(16))')"
node="${SLURMD_NODENAME:-$(hostname)}"

# With the token in it: for your eyes only.
umask 077
{
  echo "On your own machine:  ssh -N -L $port:127.0.0.1:$port -J $USER@LOGIN_NODE $USER@$node"
  echo "then in a browser:    http://127.0.0.1:$port/lab?token=$token"
  echo "It ends with the job: scancel $SLURM_JOB_ID"
} > "jupyter-$SLURM_JOB_ID.txt"
echo "JupyterLab on $node: see jupyter-$SLURM_JOB_ID.txt in $PWD"

# The token by the environment, not on the command line, which other users of the node can read.
export JUPYTER_TOKEN="$token"
root="" # a container's root user
if [ "$(id -u)" = 0 ]; then root="--allow-root"; fi
exec "$python" -m jupyterlab --no-browser --ip=127.0.0.1 --port="$port" --ServerApp.port_retries=0 $root
