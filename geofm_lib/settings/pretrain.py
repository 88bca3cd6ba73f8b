"""Settings of 02_pretrain: masked-autoencoder pretraining."""

from typing import ClassVar, Literal

from pydantic import model_validator

from geofm_lib.catalog.models import lookup
from geofm_lib.settings.base import (
    DATA,
    DATASET,
    DEVICE,
    IMAGES_PER_CLASS,
    RANKS,
    RUN_DIR,
    WHERE,
    WORKERS,
    check_strategy,
    nearest_multiples,
    setting,
)
from geofm_lib.settings.data import ImageSettings


class PretrainSettings(ImageSettings):
    """02_pretrain: masked-autoencoder pretraining on the train side of the split."""

    job: ClassVar[str] = "pretrain"
    dataset: str = DATASET
    images_per_class: int = IMAGES_PER_CLASS
    data: str = DATA
    image_size: int = setting(64, "pixels a side of what the model sees", "data", ge=8, le=2048)
    crop_scale_min: float = setting(
        0.2, "smallest share of an image's area that a random crop keeps", "data", gt=0, le=1
    )
    model: str = setting("ViT-Femto", "a row of catalog/models.py", "model")
    patch_size: int = setting(0, "pixels a side of a patch (0: the model's own)", "model", ge=0, le=64)
    mask_ratio: float = setting(0.75, "share of the patches that is hidden", "model", gt=0, lt=1)
    norm_pix_loss: bool = setting(True, "the target is each patch normalised by its own mean and spread", "model")
    decoder_width: int = setting(0, "0: the model's own", "model", ge=0)
    decoder_depth: int = setting(0, "blocks (0: the model's own)", "model", ge=0)
    decoder_heads: int = setting(0, "0: the model's own", "model", ge=0)
    epochs: int = setting(40, "passes over the train side", "recipe", ge=1)
    warmup_epochs: float = setting(5.0, "epochs of linear warm-up, then a cosine to zero", "recipe", ge=0)
    global_batch: int = setting(100, "images in one optimiser step, all ranks together", "recipe", ge=1)
    base_learning_rate: float = setting(
        1e-3, "per 256 images of global batch (the paper's lineage: 1.5e-4)", "recipe", gt=0
    )
    weight_decay: float = setting(0.05, "AdamW, on matrices only", "recipe", ge=0)
    clip_grad_norm: float = setting(1.0, "largest gradient norm (0: no clipping)", "recipe", ge=0)
    precision: Literal["fp32", "bf16"] = setting(
        "fp32", "fp32 | bf16 (bf16 compute and reduce, fp32 weights)", "recipe"
    )
    seed: int = setting(0, "of weights, order, crops and masks", "recipe", ge=0)
    strategy: str = setting("FULL_SHARD", "FULL_SHARD, SHARD_GRAD_OP, NO_SHARD, HYBRID_kGPUs or DDP", WHERE, True)
    ranks: int = RANKS
    device: Literal["auto", "cpu", "cuda"] = DEVICE
    max_batch_per_rank: int = setting(0, "images a rank holds at once (0: all; else it accumulates)", WHERE, True, ge=0)
    activation_checkpointing: bool = setting(False, "recompute activations in the backward pass", WHERE, True)
    compile: bool = setting(False, "torch.compile each block", WHERE, True)
    forward_prefetch: int = setting(1, "blocks gathered ahead in the forward pass", WHERE, True, ge=0, le=8)
    backward_prefetch: int = setting(1, "blocks gathered ahead in the backward pass", WHERE, True, ge=0, le=8)
    workers: int = WORKERS
    checkpoint_every: int = setting(50, "steps", WHERE, True, ge=1)
    keep_checkpoints: int = setting(2, "how many to keep", WHERE, True, ge=1)
    log_every: int = setting(5, "steps", WHERE, True, ge=1)
    run_dir: str = RUN_DIR

    @model_validator(mode="after")
    def _strategy_exists(self):
        check_strategy(self.strategy)
        return self

    def check_ranks(self, ranks: int) -> None:
        check_strategy(self.strategy, ranks)
        if self.global_batch % ranks:
            near = nearest_multiples(self.global_batch, ranks)
            raise ValueError(f"global_batch: {self.global_batch} images cannot be shared by {ranks} ranks; use {near}")

    def accumulation(self, ranks: int) -> int:
        """Micro-batches a rank takes for one step: the fewest equal ones within `max_batch_per_rank`."""
        own = self.global_batch // ranks
        most = self.max_batch_per_rank or own
        return next(parts for parts in range(1, own + 1) if own % parts == 0 and own // parts <= most)

    def decoder(self) -> dict[str, int]:
        """Width, depth and heads of the decoder: given here, or the model row's."""
        given = {name: getattr(self, name) for name in ("decoder_width", "decoder_depth", "decoder_heads")}
        row = lookup(self.model).resized(**given)
        return {name: getattr(row, name) for name in given}
