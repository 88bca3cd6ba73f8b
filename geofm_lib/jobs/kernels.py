"""Which kernels the blocks of a run compute with: asked for, as before, or the faster ones of a short measurement."""

import hashlib
import json
import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import Block, ResPostBlock
from torch import nn

from geofm_lib import files
from geofm_lib.distributed import sharding
from geofm_lib.distributed.context import Context
from geofm_lib.jobs.run_folder import KERNELS, Folder
from geofm_lib.model import kernels, vit
from geofm_lib.model.kernels import USUAL, Kernels
from geofm_lib.profiling import meters
from geofm_lib.profiling.devices import PRECISIONS
from geofm_lib.settings import own_folder

STACKS = ("encoder", "decoder")
KINDS = Kernels._fields
ASKED, MEASURED, BEFORE = "as asked", "measured before the first step", "as in the run's earlier part"
BUSY = "measured before the first step; the usual ones where the machine was too busy for it"
OLDER, UNMEASURED = "as of the version that began it", "the usual ones: only plain CPU blocks are measured"


def choose(network: nn.Module, settings: Any, batch: int, context: Context, run: Folder, begun: bool = False) -> None:
    """Set the kernels of a network that is not sharded yet, and write kernels.json; every rank calls this.

    network: has `tokens`, the tokens of an image in each of its stacks. batch: images of a rank's micro-batch. begun:
    has the run trained, or does it begin in another's checkpoint? Then it goes on with the kernels of then.
    """
    parts = list(zip(STACKS, sharding.stacks(network), network.tokens, strict=False))  # type: ignore[arg-type]
    _choose(parts, settings, settings.precision, batch, context, run, begun, usual=settings.compile)


def choose_of_encoders(
    encoders: Iterable[vit.Encoder], settings: Any, batch: int, context: Context, run: Folder, begun: bool
) -> None:
    """The same of frozen encoders of one architecture; timm's own with blocks of other kinds keep the usual ones."""
    encoders = list(encoders)
    blocks = nn.ModuleList(block for encoder in encoders for block in getattr(encoder, "blocks", ()))
    ours = bool(blocks) and isinstance(blocks[0], Block | ResPostBlock)
    tokens = encoders[0].num_prefix_tokens + encoders[0].patch_embed.num_patches if ours else 0
    parts = [(STACKS[0], blocks, tokens)]
    _choose(parts, settings, "fp32", batch, context, run, begun, usual=not ours, backward=False)


def _choose(
    parts: Sequence[tuple[str, sharding.Stack, int]],
    settings: Any,
    precision: str,
    batch: int,
    context: Context,
    run: Folder,
    begun: bool,
    usual: bool,
    backward: bool = True,
) -> None:
    asked, here = Kernels(settings.attention, settings.linear), _where(precision, context)
    found, begun = context.broadcast([_kept(run, here) if context.is_main and "auto" in asked else {}, begun])
    how, measured = ASKED, "auto" in asked and not found and not begun
    if "auto" in asked:
        how = BEFORE if found else OLDER if begun else MEASURED
    if context.device.type != "cpu" or usual:
        measured, how = False, UNMEASURED if "auto" in asked else ASKED
    rows = []
    for name, stack, tokens in parts:
        row: dict[str, Any] = {"stack": name, "images": batch, "tokens": tokens}
        if measured:
            row["ms"], steady = _measured(stack[0], batch, tokens, asked, precision, context, backward)
            then = kernels.fastest({Kernels(*each.split("+")): value for each, value in row["ms"].items()})
            if not steady:  # on a busy machine the times say more of the others than of the kernels
                then, how = USUAL, BUSY
        else:
            before = found.get(name, {}) if how == BEFORE else {}
            row |= {key: before[key] for key in ("images", "tokens", "ms") if key in before}
            then = Kernels(*(before.get(kind, then) for kind, then in zip(KINDS, USUAL, strict=True)))
        chosen = Kernels(*(b if a == "auto" else a for a, b in zip(asked, then, strict=True)))
        kernels.use(stack, chosen)
        rows.append(row | chosen._asdict())
    record = {"how": how, **here, "stacks": rows}
    if found.keys() != {row["stack"] for row in rows} or any(found[row["stack"]] != row for row in rows):
        run.write_json(KERNELS, record)


def _kept(run: Folder, here: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows by stack that this run, or the one that it begins in, wrote; {} if they are of other conditions."""
    file = run.path / KERNELS
    if not file.exists():
        return {}
    stored = files.read_json(file)
    try:
        rows = {row["stack"]: row for row in stored["stacks"]}
        same = all(stored[name] == here[name] for name in ("precision", "device_type"))
        known = all(row["attention"] in kernels.ATTENTION and row["linear"] in kernels.LINEAR for row in rows.values())
    except (KeyError, TypeError):
        known = same = False
    if not known:
        raise files.Damaged(f"{file} names no kernels; restore it from a copy, or set attention and linear")
    return rows if same else {}


def _where(precision: str, context: Context) -> dict[str, Any]:
    return {
        "device": meters.device_name(context.device),
        "device_type": context.device.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "ranks": context.world_size,
        "precision": precision,
    }


def _measured(
    block: nn.Module, batch: int, tokens: int, asked: Kernels, precision: str, context: Context, backward: bool
) -> tuple[dict[str, float], bool]:
    """Milliseconds of one block by kernels ("fused+matmul"), the median over the ranks, all of which measure at once.

    And whether they are steady: then they are kept for this user, so that the same settings on the same machine get
    the same kernels, and the same bits.
    """
    options = kernels.candidates(*asked)
    shape = {name: list(weight.shape) for name, weight in block.named_parameters()}
    about: dict[str, Any] = {"block": shape, "heads": block.attn.num_heads, "images": batch, "tokens": tokens}  # type: ignore[union-attr]
    ranks = context.world_size if backward else 0  # features do not depend on it
    where = [meters.device_name(context.device), torch.__version__, torch.get_num_threads(), ranks]
    about |= {"precision": precision, "options": options, "backward": backward, "where": where}
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    file = own_folder("kernels") / f"{digest}.json"
    names = ["+".join(each) for each in options]
    known = context.broadcast(_read(file, names) if context.is_main else {})
    if not known:
        own = context.gather(kernels.times(block, batch, tokens, PRECISIONS[precision], options, backward))
        medians = [1e3 * statistics.median(each) for each in zip(*(seconds for seconds, _ in own), strict=True)]
        known = {name: round(ms, 4) for name, ms in zip(names, medians, strict=False)}
        steady = all(each for _, each in own)
        if context.is_main and steady:
            known = _keep(file, known)
        known, steady = context.broadcast([known, steady])
        return known, steady
    return known, True


def _read(file: Path, names: list[str]) -> dict[str, float]:
    """Milliseconds by these names, {} where there is no such file."""
    with suppress(OSError, ValueError):
        found = files.read_json(file)
        return found if list(found) == names else {}
    return {}


def _keep(file: Path, known: dict[str, float]) -> dict[str, float]:
    """Write what was measured unless another run has meanwhile; what stands there then."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(file, known, replace=False)
    return _read(file, list(known)) or known
