"""Do larger models probe better? `python -m geofm_lib.paper.sizes [MODEL ...]` writes reports/sizes.csv.

The paper's claim, tried at a size that two CPU cores can pretrain: three small models on the built-in scenes, one
recipe for all, each probed as in notebook 05. Finished runs are read from their folders.
"""

import sys
from pathlib import Path

from geofm_lib.runs import records
from geofm_lib.runs.launch import launch
from geofm_lib.settings import PretrainSettings, ProbeSettings

MODELS = ("ViT-Atto", "ViT-Femto", "ViT-Pico")
SAME = {"images_per_class": 100, "ranks": 2}
RECIPE = {"epochs": 30, "warmup_epochs": 3.0, "global_batch": 40, "base_learning_rate": 3e-3}  # 600 steps
PROBE = {"views": 4, "base_learning_rate": 30.0, "compare_random": False, "compare_histograms": False}


def size(model: str) -> dict:
    """A model's row: pretrained on the train half, probed on the test half."""
    trained = launch(PretrainSettings(model=model, **SAME, **RECIPE))
    probe = launch(ProbeSettings(model=model, encoder=str(trained.folder), **SAME, **PROBE)).summary
    names = ("top1_pretrained_mean", "top1_pretrained_interval", "classes", "test_images")
    how = {"dataset": "scenes", "images_per_class": SAME["images_per_class"], **RECIPE}
    return {"model": model, **how, "loss": trained.summary["loss"], **{name: probe[name] for name in names}}


if __name__ == "__main__":
    found = [size(model) for model in sys.argv[1:] or MODELS]
    print(records.record("sizes", found, Path(__file__).parents[2] / "reports"))
