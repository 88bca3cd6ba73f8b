"""Settings of 05_probe: linear probe and nearest neighbours on frozen features."""

from typing import ClassVar, Literal

from geofm_lib.settings.base import DATA, DATASET, DEVICE, IMAGES_PER_CLASS, RANKS, RUN_DIR, WORKERS, setting
from geofm_lib.settings.data import ImageSettings
from geofm_lib.settings.pretrain import PretrainSettings


class ProbeSettings(ImageSettings):
    """05_probe: linear probe and nearest neighbours on frozen features."""

    job: ClassVar[str] = "probe"
    dataset: str = DATASET
    images_per_class: int = IMAGES_PER_CLASS
    data: str = DATA
    encoder: str = setting("", "pretrain run folder, exported folder or 'random' (empty: 02's default run)", "encoder")
    model: str = setting("ViT-Femto", "used by encoder random and by 02's default run", "encoder")
    image_size: int = setting(64, "pixels a side of what the model sees", "encoder", ge=8, le=2048)
    pool: Literal["mean", "cls"] = setting("mean", "mean of the patch tokens | cls (the class token)", "encoder")
    views: int = setting(8, "augmented views kept of a training image (0: new crops every epoch)", "protocol", ge=0)
    epochs: int = setting(90, "of the linear probe", "protocol", ge=1)
    warmup_epochs: float = setting(10.0, "epochs of linear warm-up, then a cosine to zero", "protocol", ge=0)
    batch: int = setting(256, "images", "protocol", ge=2)
    base_learning_rate: float = setting(0.1, "LARS, per 256 images", "protocol", gt=0)
    weight_decay: float = setting(0.0, "LARS", "protocol", ge=0)
    probe_seeds: int = setting(3, "repeats; intervals are over them", "protocol", ge=1, le=100)
    knn_k: int = setting(20, "nearest neighbours that vote", "protocol", ge=1)
    compare_random: bool = setting(True, "probe the same encoder at random initialisation too", "protocol")
    compare_histograms: bool = setting(True, "score colour and gradient histograms too", "protocol")
    seed: int = setting(0, "of crops, heads and the random encoder", "protocol", ge=0)
    ranks: int = RANKS
    device: Literal["auto", "cpu", "cuda"] = DEVICE
    workers: int = WORKERS
    run_dir: str = RUN_DIR

    def pretraining(self) -> PretrainSettings:
        """The pretraining whose encoder is probed when `encoder` is empty: 02's defaults on the same data."""
        same = ("dataset", "images_per_class", "data", "model", "image_size", "ranks", "device")
        return PretrainSettings(**{n: getattr(self, n) for n in same})
