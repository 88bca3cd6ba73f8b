#!/bin/bash
# Builds geofm's environment for Frontier and packs it into one file, for GEOFM_ENV of batch/frontier.sh. Run it on a
# login node (compute nodes have no internet), in the repository's folder, again when pyproject.toml has changed:
#
#   bash batch/frontier_env.sh /lustre/orion/PROJECT/proj-shared/geofm.tar.gz
#
# The library itself is not packed: jobs take it from the folder they are submitted in.
set -euo pipefail
packed="${1:?say where the packed environment should go, for example /lustre/orion/PROJECT/proj-shared/geofm.tar.gz}"

module load PrgEnv-gnu/8.7.0 cpe/26.03 miniforge3/23.11.0-0 rocm/7.1.1 craype-accel-amd-gfx90a
build="$(mktemp -d "$(dirname "$packed")/.geofm-env-XXXXXX")"
trap 'rm -rf "$build"' EXIT

# The site's torch first: what follows accepts it and does not bring another.
conda create --yes --prefix "$build/env" python=3.12 pip
python="$build/env/bin/python"
"$python" -m pip install --no-cache-dir --index-url https://download.pytorch.org/whl/rocm7.1 \
  torch==2.10.0 torchvision==0.25.0
"$python" -c '
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["dependencies"], *project["optional-dependencies"]["notebooks"], "conda-pack", sep="\n")
' > "$build/requirements.txt"
"$python" -m pip install --no-cache-dir -c constraints.txt -r "$build/requirements.txt"
"$python" -c 'import torch; assert torch.version.hip, "this torch is not built for ROCm"; print("torch", torch.__version__)'

"$build/env/bin/conda-pack" --prefix "$build/env" --output "$packed" --n-threads -1 --force
echo "packed: export GEOFM_ENV=$packed"
