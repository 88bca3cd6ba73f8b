"""Settings of 02_pretrain and 05_probe: pretraining of an encoder, and what its frozen features are good for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from geofm_lib.catalog import bands, recipes
from geofm_lib.catalog.models import lookup
from geofm_lib.catalog.readouts import ORIENTATIONS, READOUTS
from geofm_lib.settings import base, branch, objectives
from geofm_lib.settings.base import DATA, DATASET, DEVICE, IMAGES_PER_CLASS, RANKS, RUN_DIR, WHERE, WORKERS, setting
from geofm_lib.settings.data import ImageSettings


class TrainingSettings(ImageSettings):
    """Checks of the jobs that train on batches which ranks share."""

    if TYPE_CHECKING:
        strategy: str
        global_batch: int
        max_batch_per_rank: int

    def check_ranks(self, ranks: int) -> None:
        base.check_strategy(self.strategy, ranks)
        if ranks and self.global_batch % ranks:
            near = base.nearest_multiples(self.global_batch, ranks)
            raise ValueError(f"global_batch: {self.global_batch} images cannot be shared by {ranks} ranks; use {near}")

    def accumulation(self, ranks: int) -> int:
        """Micro-batches a rank takes for one step: the fewest equal ones within `max_batch_per_rank`."""
        own = self.global_batch // ranks
        most = self.max_batch_per_rank or own
        return next(parts for parts in range(1, own + 1) if own % parts == 0 and own // parts <= most)


class PretrainSettings(TrainingSettings):
    """02_pretrain: pretraining on the train side of the split: a masked autoencoder, contrastive, or both."""

    job: ClassVar[str] = "pretrain"
    dataset: str = DATASET
    images_per_class: int = IMAGES_PER_CLASS
    data: str = DATA
    image_size: int = setting(64, "pixels a side of what the model sees", "data", ge=2, le=2048)
    crop_scale_min: float = setting(
        0.2, "smallest share of an image's area that a random crop keeps", "data", gt=0, le=1
    )
    rotations: bool = setting(False, "turn crops by random quarter turns too", "data", later=True)
    train_images: int = setting(0, "of the train side, drawn by the seed (0: all)", "data", later=True, ge=0)
    model: str = setting("ViT-Femto", "a row of catalog/models.py", "model")
    patch_size: int = setting(0, "pixels a side of a patch (0: the model's own)", "model", ge=0, le=64)
    band_groups: str = setting(
        "", "bands whose patches are tokens of their own: B2,B3,B4|B8, or by number 0-2|3 (empty: one)", "model",
        later=True,
    )  # fmt: skip
    group_masks: Literal["independent", "consistent"] = setting(
        "independent", "each of band_groups masks its own places | consistent (all the same ones)", "model", later=True
    )
    mask_ratio: float = setting(0.75, "share of the patches that is masked", "model", gt=0, lt=1)
    norm_pix_loss: bool = setting(True, "the target is each patch normalised by its own mean and spread", "model")
    objective: objectives.Kind = setting(
        "mae", "mae | contrastive (two views of an image are told from all others) | both", "model", later=True
    )
    positives: objectives.Positives = setting(
        "views", "contrastive: views (two of an image) | dates (two of a place, by 01's pairs)", "model", later=True
    )
    temperature: float = setting(0.2, "contrastive: divides cosines; smaller asks for more", "model", later=True, gt=0)
    projection: int = setting(
        128, "contrastive: numbers in which views are compared, behind a small head", "model", later=True, ge=2
    )
    colour_jitter: float = setting(
        0.4, "contrastive: largest change of a view's brightness, contrast and colour (0: none)", "model",
        later=True, ge=0, lt=1,
    )  # fmt: skip
    contrast_weight: float = setting(
        0.1, "both: of the contrastive loss beside MAE's (CAN: 0.03 to 0.67)", "model", later=True, gt=0
    )
    init: str = setting(
        "", "run, encoder folder or weights file to start from, ours, timm's or Hugging Face's (empty: seed)", "model"
    )
    init_bands: Literal["mean", "repeat", "new"] = setting(
        "mean", "init's first projection for other bands: mean | repeat (its bands in turn) | new", "model"
    )
    branch: str = setting(
        "",
        "run@step to go on from; what is at its default here is as there (run alone: last checkpoint)",
        "model",
        later=True,
    )
    recipe: recipes.Name = setting(
        "standard", "standard | fast (a decoder of one block: cheaper steps of small models)", "model",
        later=True,
    )  # fmt: skip
    decoder_width: int = setting(0, "0: the model's own", "model", ge=0)
    decoder_depth: int = setting(0, "blocks (0: the model's own)", "model", ge=0)
    decoder_heads: int = setting(0, "0: the model's own", "model", ge=0)
    epochs: int = setting(40, "passes over the train side", "recipe", ge=1)
    warmup_epochs: float = setting(5.0, "epochs of linear warm-up, then a cosine to zero", "recipe", ge=0)
    schedule: Literal["cosine", "constant"] = setting(
        "cosine", "after the warm-up: cosine | constant (then cooldown_epochs)", "recipe", later=True
    )
    cooldown_epochs: float = setting(0.0, "last epochs of constant: a line to zero", "recipe", later=True, ge=0)
    global_batch: int = setting(100, "images in one optimiser step, all ranks together", "recipe", ge=1)
    base_learning_rate: float = setting(
        1e-3, "per 256 images of global batch (the paper's lineage: 1.5e-4)", "recipe", gt=0
    )
    base_width: int = setting(
        0,
        "matrices of wider models take the rate times this over their width (0: one rate)",
        "recipe",
        later=True,
        ge=0,
    )
    weight_decay: float = setting(0.05, "AdamW, on matrices only", "recipe", ge=0)
    clip_grad_norm: float = setting(1.0, "largest gradient norm (0: no clipping)", "recipe", ge=0)
    precision: base.Precision = setting("fp32", "fp32 | bf16 (bf16 compute, fp32 weights)", "recipe")
    reduce_dtype: base.Precision = setting("fp32", base.REDUCE, "recipe")
    skip_steps: str = setting("", "steps whose images are left out, such as 1201,1300-1305", "recipe", later=True)
    seed: int = setting(0, "of weights, order, crops and masks", "recipe", ge=0)
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
    checkpoint_every: int = setting(50, "steps", WHERE, True, ge=1)
    keep_checkpoints: int = setting(2, "how many to keep", WHERE, True, ge=1)
    keep_every: int = setting(0, "steps between checkpoints that stay for good (0: none)", WHERE, True, ge=0)
    log_every: int = setting(5, "steps", WHERE, True, ge=1)
    probe_every: int = setting(0, "steps between quick probes of the features (0: none)", WHERE, True, ge=0)
    probe_data: str = setting("", "labelled run folder of 01_data for them (empty: the data set above)", WHERE, True)
    run_dir: str = RUN_DIR

    @field_validator("skip_steps", mode="before")
    @classmethod
    def _ranges_of_steps(cls, value: object) -> str:
        return branch.spelled(branch.ranges(value))

    @field_validator("band_groups")
    @classmethod
    def _groups_can_be_meant(cls, value: str) -> str:
        return "|".join(",".join(group) for group in bands.parse(value))

    def __init__(self, **values: Any) -> None:
        there = branch.inherited(values) if values.get("branch") else {}
        values = there | values
        super().__init__(**values | recipes.filled(values))
        if there:
            branch.refuse(self, there)

    @model_validator(mode="after")
    def _probed(self) -> Self:
        if self.probe_data and not self.probe_every:
            raise ValueError("probe_data: it is for probe_every, which is 0; set that as well")
        return self

    @model_validator(mode="after")
    def _grouped(self) -> Self:
        if self.group_masks != "independent" and not self.band_groups:
            raise ValueError(f"group_masks: {self.group_masks!r} says nothing without groups; set band_groups as well")
        return self

    @model_validator(mode="after")
    def _cooled(self) -> Self:
        if self.cooldown_epochs and self.schedule != "constant":
            raise ValueError("cooldown_epochs: a cosine falls by itself; set schedule=constant as well")
        if self.cooldown_epochs > self.epochs:
            raise ValueError(
                f"cooldown_epochs: {self.cooldown_epochs:g} are more than the {self.epochs} epochs there are"
            )
        return self

    @model_validator(mode="after")
    def _recipe_holds(self) -> Self:
        recipes.refuse(vars(self))
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        objectives.refuse(self.objective, vars(self), defaults)
        return self

    def check_ranks(self, ranks: int) -> None:
        super().check_ranks(ranks)
        if ranks:
            objectives.refuse_parts(self.objective, self.accumulation(ranks), self.global_batch, ranks)

    def steps(self, images: int, done: int = 0) -> tuple[int, int]:
        """(all steps, the last one that is taken) on so many training images, of which a branch has done some.

        ValueError, one sentence, where no step is left to take, or one that is left out is not there.
        """
        if self.train_images > images:
            raise ValueError(
                f"train_images: {self.train_images} are more than the {images} of the train side; use fewer"
            )
        images = self.train_images or images
        if images < self.global_batch:
            raise ValueError(
                f"global_batch: {self.global_batch} images are more than the {images} of the train side; use fewer"
            )
        total, skipped = images // self.global_batch * self.epochs, branch.ranges(self.skip_steps)
        if skipped and skipped[-1].stop > total + 1:
            raise ValueError(f"skip_steps: step {skipped[-1].stop - 1} is beyond the last one, {total}; name others")
        final = next((step for step in range(total, 0, -1) if not any(step in each for each in skipped)), 0)
        if not final:
            raise ValueError("skip_steps: no step is left; name fewer")
        if done >= final:
            raise ValueError(f"branch: step {done} is the end of {self.epochs} epochs; set more epochs to go on")
        return total, final

    def groups(self, channels: int, names: Sequence[str] = ()) -> tuple[tuple[int, ...], ...]:
        """The bands of each of `band_groups` by number, () where all are together, of images with so many bands.

        ValueError, one sentence, for groups that these images have not.
        """
        with base.naming("band_groups"):
            return bands.resolve(self.band_groups, channels, names)

    def share_of_rate(self) -> float:
        """Of the rate, for matrices whose fan-in grows with the encoder's width; 0: one rate for all."""
        return self.base_width / lookup(self.model).width

    def decoder(self) -> dict[str, int]:
        """Width, depth and heads of the decoder: given here, or the model row's."""
        given = {name: getattr(self, name) for name in ("decoder_width", "decoder_depth", "decoder_heads")}
        row = lookup(self.model).resized(**given)
        return {name: getattr(row, name) for name in given}


class EncoderSettings(ImageSettings):
    """What the jobs that take an encoder have in common."""

    if TYPE_CHECKING:
        data: str
        encoder: str
        allow_seen: bool

    def pretraining(self) -> PretrainSettings:
        """The pretraining whose encoder is taken when `encoder` is empty: 02's defaults on the same data."""
        same = ("dataset", "images_per_class", "data", "model", "image_size", "ranks", "device")
        return PretrainSettings(**{n: getattr(self, n) for n in same})


class ProbeSettings(EncoderSettings):
    """05_probe: linear probe and nearest neighbours on frozen features."""

    job: ClassVar[str] = "probe"
    dataset: str = DATASET
    images_per_class: int = IMAGES_PER_CLASS
    data: str = DATA
    encoder: str = setting(
        "", "run, RUN@STEP, encoder folder (timm's, Hugging Face's too) or 'random' (empty: 02's default)", "encoder"
    )
    model: str = setting("ViT-Femto", "used by encoder random and by 02's default run", "encoder")
    image_size: int = setting(64, "pixels a side of what the model sees", "encoder", ge=2, le=2048)
    pool: Literal["mean", "cls"] = setting("mean", "mean of the patch tokens | cls (the class token)", "encoder")
    protocol: Literal["both", "paper", "fast", "dates"] = setting(
        "both",
        "both | paper (LARS, random crops) | fast (logistic regression) | dates (finds a place again)",
        "protocol",
        later=True,
    )
    readouts: str = setting(
        "mean,mean+spread+max+class", "fast: with commas, of mean, class, mean+spread+max+class", "protocol",
        later=True,
    )  # fmt: skip
    orientations: int = setting(
        1, "fast: 1, or also means over 4 quarter turns, or over 8 with mirror images", "protocol", later=True
    )
    splits: int = setting(
        5, "fast: the set's own split and further ones of its kind", "protocol", ge=1, le=100, later=True
    )
    details: bool = setting(
        True, "fast: few images a class, shares of the train side, and every block too", "protocol", later=True
    )
    beside: str = setting("", "fast: other encoders' folders to score too, with commas", "protocol", later=True)
    supervised_epochs: int = setting(
        0,
        "fast: train the same architecture on the labels from scratch, for so many epochs",
        "protocol",
        ge=0,
        later=True,
    )
    views: int = setting(8, "augmented views kept of a training image (0: new crops every epoch)", "protocol", ge=0)
    epochs: int = setting(90, "of the linear probe", "protocol", ge=1)
    warmup_epochs: float = setting(10.0, "epochs of linear warm-up, then a cosine to zero", "protocol", ge=0)
    batch: int = setting(256, "images", "protocol", ge=2)
    base_learning_rate: float = setting(0.0, "LARS, per 256 images (0: by the number of steps)", "protocol", ge=0)
    weight_decay: float = setting(0.0, "LARS", "protocol", ge=0)
    probe_seeds: int = setting(3, "repeats; intervals are over them", "protocol", ge=1, le=100)
    knn_k: int = setting(20, "nearest neighbours that vote", "protocol", ge=1)
    compare_random: bool = setting(True, "probe the same encoder at random initialisation too", "protocol")
    compare_histograms: bool = setting(True, "score histograms (fast: random convolutions) too", "protocol")
    allow_seen: bool = setting(False, "probe though most test images were pretrained on", "protocol", later=True)
    seed: int = setting(0, "of crops, heads and the random encoder", "protocol", ge=0)
    ranks: int = RANKS
    device: base.Device = DEVICE
    attention: base.Attention = setting("auto", base.ATTENTION, WHERE, True)
    linear: base.Linear = setting("auto", base.LINEAR, WHERE, True)
    workers: int = WORKERS
    run_dir: str = RUN_DIR

    @field_validator("orientations")
    @classmethod
    def _orientations_are_whole(cls, value: int) -> int:
        if value not in ORIENTATIONS:
            raise ValueError(f"use one of {', '.join(map(str, ORIENTATIONS))}")
        return value

    @field_validator("readouts")
    @classmethod
    def _readouts_exist(cls, value: str) -> str:
        names = list(dict.fromkeys(map(str.strip, value.split(","))))
        for name in names:
            if name not in READOUTS:
                raise ValueError(f"there is no readout '{name}'; use some of {', '.join(READOUTS)}")
        return ",".join(names)
