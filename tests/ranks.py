"""Start a few real ranks of a small program: `python -m tests.ranks PROGRAM RUN_DIR`, and the programs themselves."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[1]


def start(program: str, folder: Path, world: int, timeout: float = 240, **arguments) -> dict:
    """Run `program` below on `world` CPU ranks; returns what its rank 0 wrote. Raises with the ranks' output."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arguments.json").write_text(json.dumps(arguments))
    base = {**os.environ, "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    base.update(GLOO_SOCKET_IFNAME="lo", GEOFM_LAUNCH=f"test{world}")
    (folder / f".rendezvous-test{world}.json").unlink(missing_ok=True)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ranks", program, str(folder)],
            cwd=REPO,
            env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)
    return json.loads((folder / "result.json").read_text())


def _model(norm_pix_loss=True):
    from geofm_lib.model import mae

    return mae.build("ViT-Atto", 32, 3, "meta", 8, norm_pix_loss=norm_pix_loss)


def _train(model, ranks, steps=5, parts=1, batch=16):
    """Losses and gradient norms of a few AdamW steps with clipping on a fixed global batch."""
    import torch
    import torch.distributed as dist

    from geofm_lib.distributed import training

    optimiser = training.optimiser(model, 0.05)
    generator = torch.Generator().manual_seed(5)
    losses, norms, same = [], [], []
    for _ in range(steps):
        images = torch.randn(batch, 3, 32, 32, generator=generator)
        noise = torch.rand(batch, 16, generator=generator)
        own = [
            (images[k * batch // parts :][rank_part], noise[k * batch // parts :][rank_part])
            for k in range(parts)
            for rank_part in [
                slice(ranks.rank * batch // parts // ranks.world, (ranks.rank + 1) * batch // parts // ranks.world)
            ]
        ]
        functions = [lambda pair=pair: model(*pair) for pair in own]
        loss, norm = training.step(model, optimiser, functions, parts=parts, rate=1e-3, clip=0.5)
        dist.all_reduce(loss)
        losses.append(loss.item() / ranks.world)
        norms.append(norm.item())
        same.append(_replicas_equal(model, ranks))
    return {"losses": losses, "norms": norms, "replicas_equal": all(same)}


def _replicas_equal(model, ranks) -> bool:
    """Do all ranks that hold the same part of a weight hold the same bits?"""
    digests = {}
    for name, parameter in model.named_parameters():
        part = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        place = str(parameter.__create_chunk_list__()) if hasattr(parameter, "to_local") else ""
        digests[f"{name}|{place}"] = hashlib.sha256(part.detach().numpy().tobytes()).hexdigest()
    together = ranks.gather(digests)
    seen: dict[str, str] = {}
    equal = all(seen.setdefault(key, value) == value for own in together or [] for key, value in own.items())
    return ranks.broadcast(equal)


def equality(ranks, arguments):
    """Every strategy that divides the ranks, with and without activation checkpointing, fp32 and bf16."""
    from geofm_lib.distributed import sharding

    out = {}
    for strategy in arguments["strategies"]:
        for precision, checkpointing in (("fp32", False), ("fp32", True), ("bf16", False)):
            model = sharding.apply(
                _model(),
                strategy,
                world=ranks.world,
                device=ranks.device,
                precision=precision,
                activation_checkpointing=checkpointing,
                seed=7,
            )
            out[f"{strategy}/{precision}/{checkpointing}"] = _train(model, ranks)
    model = sharding.apply(_model(), "FULL_SHARD", world=ranks.world, device=ranks.device, seed=7)
    out["accumulated/fp32/False"] = _train(model, ranks, parts=2)
    return {"trained": out, "bytes": bytes_sent(ranks, arguments["strategies"])}


def bytes_sent(ranks, strategies):
    """What the meter counts in one step of each strategy."""
    from geofm_lib.distributed import meters, sharding

    out = {}
    for strategy in strategies:
        model = sharding.apply(_model(), strategy, world=ranks.world, device=ranks.device, seed=7)
        with meters.CollectiveBytes() as counted:
            _one_step(model, ranks)
        out[strategy] = counted.bytes
    return out


def _one_step(model, ranks):
    import torch

    from geofm_lib.distributed import training

    pair = torch.randn(4, 3, 32, 32), torch.rand(4, 16)
    training.step(model, training.optimiser(model, 0.0), [lambda: model(*pair)], parts=1, rate=0.0, clip=0.0)


def save(ranks, arguments):
    """Save at steps 0, 1 and 2, then go on for two steps; the weights saved last and the losses after."""
    from geofm_lib.distributed import checkpoint, sharding, training

    out = {}
    for first in (0, 1):  # with and without a checkpoint before the first step, which must change nothing
        folder = Path(arguments["checkpoint"]) if first == 0 else Path(arguments["checkpoint"] + "-from-1")
        model = sharding.apply(_model(), arguments["strategy"], world=ranks.world, device=ranks.device, seed=7)
        optimiser = training.optimiser(model, 0.05)
        for step in (0, 1, 2):
            if step:
                _step_of(model, optimiser, ranks)
            if step >= first:
                checkpoint.save(folder, step, model, optimiser, {"run": "a"}, ranks, keep=2)
        out[f"first {first}"] = _after(model, optimiser, ranks)
    return out


def load(ranks, arguments):
    """Load as told, several times in turn; for each the step, the weights and the losses after, or the error."""
    from geofm_lib.distributed import checkpoint, sharding, training

    found = []
    for told in arguments["loads"]:
        if ranks.is_main:
            for name in told.get("flip", []):
                _flip_a_byte(Path(name))
            for name in told.get("delete", []):
                Path(name).unlink()
        ranks.barrier()
        model = sharding.apply(_model(), told["strategy"], world=ranks.world, device=ranks.device, seed=8)
        optimiser = training.optimiser(model, 0.05)
        try:
            step = checkpoint.load(Path(told["checkpoint"]), model, optimiser, {"run": told.get("run", "a")}, ranks)
            found.append({"step": step, **_after(model, optimiser, ranks)})
        except checkpoint.CheckpointError as error:
            found.append({"error": str(error)})
    return found


def _flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _after(model, optimiser, ranks) -> dict:
    from geofm_lib.distributed import checkpoint

    weights = checkpoint.full_weights(model)
    digests = {n: hashlib.sha256(t.numpy().tobytes()).hexdigest() for n, t in weights.items()}
    return {"weights": digests, "losses": [_step_of(model, optimiser, ranks) for _ in range(2)]}


def _step_of(model, optimiser, ranks):
    import torch
    import torch.distributed as dist

    from geofm_lib.distributed import training

    generator = torch.Generator().manual_seed(3)
    images, noise = torch.randn(8, 3, 32, 32, generator=generator), torch.rand(8, 16, generator=generator)
    own = slice(ranks.rank * 8 // ranks.world, (ranks.rank + 1) * 8 // ranks.world)
    loss, _ = training.step(model, optimiser, [lambda: model(images[own], noise[own])], parts=1, rate=1e-3, clip=1.0)
    dist.all_reduce(loss)
    return loss.item() / ranks.world


if __name__ == "__main__":
    from geofm_lib.distributed import ranks as ranks_module

    where = Path(sys.argv[2])
    me = ranks_module.start(where, "cpu")
    result = globals()[sys.argv[1]](me, json.loads((where / "arguments.json").read_text()))
    if me.is_main:
        (where / "result.json").write_text(json.dumps(result))
    me.barrier()
    ranks_module.stop()
