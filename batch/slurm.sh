#!/bin/bash
# One notebook as a Slurm job, on any cluster. One task is one rank, one node is one task unless you say otherwise:
#
#   sbatch --nodes=1 --ntasks-per-node=2 batch/slurm.sh notebooks/02_pretrain.ipynb -p epochs 10
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-task=1 batch/slurm.sh notebooks/03_throughput.ipynb
#   sbatch --nodes=2 batch/slurm.sh jupyter                      JupyterLab; its cells launch ranks on both nodes
#
# Submit from the repository's folder. GEOFM_PYTHON names another interpreter than the one made by make. The stop signal
# comes 300 s before the time limit; --signal=B:USR1@600 gives a large model more time to save.
# For another site: copy this file, add its modules and, in GEOFM_SRUN, its own options for srun.
#SBATCH --job-name=geofm
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
set -eu

cd "$SLURM_SUBMIT_DIR"

# sbatch -N 2 by itself means one task a node, but then leaves this unset.
export SLURM_NTASKS="${SLURM_NTASKS:-$SLURM_NNODES}"

# srun no longer takes over sbatch's --cpus-per-task by itself (Slurm 22.05).
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi

exec bash batch/run.sh "${GEOFM_PYTHON:-.venv/bin/python}" "$@"
