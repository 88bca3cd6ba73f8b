#!/bin/bash
# One notebook as a job on Frontier (OLCF): 8 ranks a node, one GCD each. Sources: the site's user guide, July 2026.
#
#   sbatch -A PROJECT -N 8 -t 2:00:00 batch/frontier.sh notebooks/03_throughput.ipynb -p strategy HYBRID_2GPUs
#   sbatch -A PROJECT -N 2 -t 1:00:00 batch/frontier.sh jupyter
#
# Submit from the repository's folder on Orion. GEOFM_ENV is the packed environment that batch/frontier_env.sh made: it
# goes to each node's NVMe drive, because importing torch from a shared file system takes minutes on many nodes.
#SBATCH --job-name=geofm
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --partition=batch
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=7
#SBATCH --constraint=nvme
#SBATCH --network=disable_rdzv_get
set -eu

cd "$SLURM_SUBMIT_DIR"
: "${GEOFM_ENV:?set GEOFM_ENV to the packed environment, for example /lustre/orion/PROJECT/proj-shared/geofm.tar.gz}"

# The site's modules. rccl-net-plugin (after rocm) carries RCCL over Slingshot; without it RCCL falls back to TCP.
module load PrgEnv-gnu/8.7.0 cpe/26.03 miniforge3/23.11.0-0 rocm/7.1.1 craype-accel-amd-gfx90a rccl-net-plugin
export LD_LIBRARY_PATH="$CRAY_LD_LIBRARY_PATH${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" # needed with a cpe that is not the default

# The environment, once a node, on its own drive. A part of sbcast that fails ends the job here (set -e).
drive="/mnt/bb/$USER"
sbcast --preserve --force "$GEOFM_ENV" "$drive/geofm.tar.gz"
srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task=56 bash -euc "
  mkdir -p '$drive/geofm' '/tmp/miopen-$SLURM_JOB_ID'
  tar --use-compress-program='pigz -d' -xf '$drive/geofm.tar.gz' -C '$drive/geofm'
  '$drive/geofm/bin/python' '$drive/geofm/bin/conda-unpack'"
export PATH="$drive/geofm/bin:$PATH" PYTHONPATH="$PWD"

# RCCL over the four Slingshot interfaces (only hsn0 if a job hangs at its first collective).
export NCCL_SOCKET_IFNAME=hsn0,hsn1,hsn2,hsn3 NCCL_CROSS_NIC=1 NCCL_NET_GDR_LEVEL=PHB HSA_FORCE_FINE_GRAIN_PCIE=1
export FI_MR_CACHE_MONITOR=kdreg2 # never memhooks
export FI_CXI_DISABLE_HOST_REGISTER=1 FI_CXI_DEFAULT_CQ_SIZE=131072 FI_CXI_DEFAULT_TX_SIZE=2048
export FI_CXI_RX_MATCH_MODE=hybrid FI_CXI_RDZV_EAGER_SIZE=0 FI_CXI_RDZV_THRESHOLD=0 FI_CXI_RDZV_GET_MIN=0

# MIOpen's kernel cache: fresh, on the node, for this job; a shared one corrupts and locks.
export MIOPEN_USER_DB_PATH="/tmp/miopen-$SLURM_JOB_ID" MIOPEN_CUSTOM_CACHE_DIR="/tmp/miopen-$SLURM_JOB_ID"

# What Jupyter and matplotlib write stays off the small NFS home.
export JUPYTER_RUNTIME_DIR="/tmp/jupyter-$SLURM_JOB_ID" IPYTHONDIR="/tmp/ipython-$SLURM_JOB_ID"
export MPLCONFIGDIR="/tmp/matplotlib-$SLURM_JOB_ID"

# How the launcher's srun places ranks: 8 a node, 7 cores (each eighth is the system's) and the nearest GCD for each.
export GEOFM_SRUN="--ntasks-per-node=8 --cpus-per-task=7 --gpus-per-task=1 --gpu-bind=closest"

exec bash batch/run.sh python "$@"
