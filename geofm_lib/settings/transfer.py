"""Settings of 08_transfer: an encoder on other tasks, frozen and fine-tuned, beside one without pretraining."""

from typing import ClassVar, Literal

from pydantic import field_validator, model_validator

from geofm_lib.catalog import transfer
from geofm_lib.settings import base
from geofm_lib.settings.base import DATA, DATASET, DEVICE, IMAGES_PER_CLASS, RANKS, RUN_DIR, WHERE, WORKERS, setting
from geofm_lib.settings.data import PrepareSettings
from geofm_lib.settings.pretrain import EncoderSettings, PretrainSettings, TrainingSettings

HEADS = {  # of each task, its own choice first
    "classify": ("linear",),
    "segment": ("pyramid", "light"),
    "detect": ("fcos",),
    "series": ("linear",),
}
TRUTHS = {"segment": "masks", "detect": "boxes"}  # 01's `labels` for a task that needs more than labels


class TransferSettings(EncoderSettings, TrainingSettings):
    """08_transfer: what pretraining adds to a task, with the encoder frozen and fine-tuned."""

    job: ClassVar[str] = "transfer"
    task: Literal["classify", "segment", "detect", "series"] = setting(
        "classify", "classify (images with a label) | segment (masks) | detect (boxes) | series (over dates)", "task"
    )
    head: str = setting("", "of segment: pyramid (of four blocks) | light (empty: the task's first)", "task")
    dataset: str = DATASET
    images_per_class: int = IMAGES_PER_CLASS
    data: str = DATA
    train_images: int = setting(80, "with labels, drawn from the train side by the seed (0: all)", "data", ge=0)
    test_images: int = setting(400, "drawn from the test side likewise (0: all)", "data", ge=0)
    encoder: str = setting("", "run, RUN@STEP, or encoder folder of ours (empty: 02's default)", "encoder")
    model: str = setting("ViT-Femto", "of 02's default run", "encoder")
    image_size: int = setting(64, "pixels a side of what the model sees; of series, dates", "encoder", ge=2, le=2048)
    arms: str = setting(",".join(transfer.ARMS), "with commas, of fine-tuned, frozen, scratch, untrained", "protocol")
    seeds: int = setting(3, "repeats of each arm: head, order, crops, random weights", "protocol", ge=1, le=100)
    epochs: int = setting(24, "passes over the train side", "protocol", ge=1)
    frozen_share: float = setting(
        0.2, "first share of the epochs in which fine-tuning trains the head alone", "protocol", ge=0, lt=1
    )
    warmup_share: float = setting(0.1, "of the steps: linear warm-up, then a cosine to zero", "protocol", ge=0, lt=1)
    global_batch: int = setting(16, "images in one optimiser step, all ranks together", "protocol", ge=1)
    base_learning_rate: float = setting(8e-3, "per 256 images, of the whole network", "protocol", gt=0)
    head_learning_rate: float = setting(5e-2, "per 256 images, while the head alone is trained", "protocol", gt=0)
    layer_decay: float = setting(
        0.75, "fine-tuning: each block takes this times the rate of the next one", "protocol", gt=0, le=1
    )
    weight_decay: float = setting(0.05, "AdamW, on matrices only", "protocol", ge=0)
    clip_grad_norm: float = setting(1.0, "largest gradient norm (0: no clipping)", "protocol", ge=0)
    crop_scale_min: float = setting(
        0.5, "smallest share of an image's area that a random crop keeps", "protocol", gt=0, le=1
    )
    rotations: bool = setting(True, "turn crops by random quarter turns too", "protocol")
    mixup: float = setting(
        0.0, "classify and series: images are mixed by shares of Beta(mixup, mixup) (0: none; MAE: 0.8)", "protocol",
        later=True, ge=0, le=10,
    )  # fmt: skip
    balance: float = setting(
        0.0, "segment: a class weighs 1 / its share of the pixels to this power (0: all alike)", "protocol",
        later=True, ge=0, le=1,
    )  # fmt: skip
    precision: base.Precision = setting("fp32", "fp32 | bf16 (bf16 compute, fp32 weights)", "protocol")
    reduce_dtype: base.Precision = setting("fp32", base.REDUCE, "protocol")
    allow_seen: bool = setting(False, "go on though most test images were pretrained on", "protocol")
    seed: int = setting(0, "the first of the repeats", "protocol", ge=0)
    strategy: str = setting("FULL_SHARD", "FULL_SHARD, SHARD_GRAD_OP, NO_SHARD, HYBRID_kGPUs or DDP", WHERE, True)
    ranks: int = RANKS
    device: base.Device = DEVICE
    max_batch_per_rank: int = setting(0, "images a rank holds at once (0: all; else it accumulates)", WHERE, True, ge=0)
    activation_checkpointing: bool = setting(False, "recompute activations in the backward pass", WHERE, True)
    compile: bool = setting(False, "torch.compile each block", WHERE, True)
    attention: base.Attention = setting("auto", base.ATTENTION, WHERE, True)
    linear: base.Linear = setting("auto", base.LINEAR, WHERE, True)
    forward_prefetch: int = setting(1, "blocks gathered ahead in the forward pass", WHERE, True, ge=0, le=8)
    backward_prefetch: int = setting(1, "blocks gathered ahead in the backward pass", WHERE, True, ge=0, le=8)
    workers: int = WORKERS
    checkpoint_every: int = setting(200, "steps of an arm", WHERE, True, ge=1)
    log_every: int = setting(5, "steps", WHERE, True, ge=1)
    run_dir: str = RUN_DIR

    @field_validator("arms")
    @classmethod
    def _arms_exist(cls, value: str) -> str:
        return ",".join(arm.name for arm in transfer.chosen(value))

    @model_validator(mode="after")
    def _head_fits(self):
        heads = HEADS[self.task]
        if self.head and self.head not in heads:
            raise ValueError(f"head: there is no '{self.head}' for {self.task}; use {' or '.join(heads)}")
        if self.mixup and self.task in TRUTHS:
            raise ValueError(f"mixup: the {TRUTHS[self.task]} of {self.task} cannot be mixed; set it to 0")
        if self.balance and self.task != "segment":
            raise ValueError(
                f"balance: only pixels are weighed by their class, not what {self.task} learns; set it to 0"
            )
        if (truth := TRUTHS.get(self.task)) and not self.data and self.dataset != "scenes":
            first = f"geofm run 01 -p dataset {self.dataset} -p labels {truth} -p run_dir FOLDER"
            raise ValueError(f"data: images with {truth} are prepared first ({first}); give that run folder as data")
        return self

    def preparation(self) -> PrepareSettings:
        """The built-in scenes have their masks or boxes drawn for a task that needs them."""
        if self.task == "series" and not self.data and self.dataset == "scenes":
            raise base.SettingsError(
                "dataset: the scenes are images; set dataset=seasons (built-in), or a table of series"
            )
        found = super().preparation()
        drawn = TRUTHS.get(self.task) if not self.data else None
        return found.model_copy(update={"labels": drawn}) if drawn else found

    def patch(self) -> int:
        """See `ImageSettings`; of a series each date is one."""
        return 1 if self.task == "series" else super().patch()

    def pretraining(self) -> PretrainSettings:
        """See `EncoderSettings`."""
        found = super().pretraining()
        if self.task != "series":
            return found
        return PretrainSettings(**found.model_dump() | {"patch_size": 1, "norm_pix_loss": False})

    def head_name(self) -> str:
        """The head that is meant."""
        return self.head or HEADS[self.task][0]

    def frozen_epochs(self) -> int:
        """Epochs in which fine-tuning trains the head alone: at least one less than all."""
        return min(round(self.epochs * self.frozen_share), self.epochs - 1)
