"""Start a few real ranks of small programs: `python -m tests.support.ranks RUN_DIR WORLD`, and the programs themselves.

The ranks are forked from one process that has imported torch and done nothing with it: an import costs each process
several seconds. (Runs are started otherwise, see desk/launch.py.)
"""

import hashlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

REPO = Path(__file__).parents[2]


def start(program: str, folder: Path, world: int, **arguments):
    """Run one `program` below on `world` CPU ranks; returns its result."""
    return start_all({program: arguments}, folder, world)[program]


def start_all(programs: dict[str, dict], folder: Path, world: int, timeout: float = 500) -> dict:
    """Run several, each with its arguments, in the same ranks (starting them takes seconds); name -> result."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "programs.json").write_text(json.dumps(programs))
    (folder / f".rendezvous-test{world}.json").unlink(missing_ok=True)
    base = {**os.environ, "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    base.update(GLOO_SOCKET_IFNAME="lo", GEOFM_LAUNCH=f"test{world}")
    command = [sys.executable, "-m", "tests.support.ranks", str(folder), str(world)]
    done = subprocess.run(command, cwd=REPO, env=base, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "result.json").read_text())


def _model(decoder_depth=None):
    from geofm_lib.model import mae

    return mae.build("ViT-Atto", 32, 3, "meta", 8, decoder_depth=decoder_depth, norm_pix_loss=True)


def _train(model, ranks, steps=5, parts=1, batch=16):
    """Losses and gradient norms of a few AdamW steps with clipping on a fixed global batch."""
    import torch

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
        loss, norm, _ = training.step(model, optimiser, functions, parts=parts, rate=1e-3, clip=0.5)
        losses.append(loss)
        norms.append(norm)
        same.append(_replicas_equal(model, ranks))
    return {"losses": losses, "norms": norms, "replicas_equal": all(same)}


def _replicas_equal(model, ranks) -> bool:
    """Do all ranks that hold the same part of a weight hold the same bits?"""
    places = {n: str(getattr(p, "__create_chunk_list__", lambda: "whole")()) for n, p in model.named_parameters()}
    together = ranks.gather([[f"{name} {places[name]}", digest] for name, digest in _digests(model).items()])
    seen: dict[str, set[str]] = {}
    for key, digest in (pair for own in together or [] for pair in own):
        seen.setdefault(key, set()).add(digest)
    return ranks.broadcast(all(len(digests) == 1 for digests in seen.values()))


def unsynchronised(ranks, arguments):
    """Replicas whose gradients are never reduced, as in FSDP1's HYBRID_1GPU: what the equality of bits must tell."""
    from geofm_lib.model import vit

    return _train(vit.materialise(_model(), "cpu", 7), ranks, steps=1)["replicas_equal"]


def equality(ranks, arguments):
    """Every strategy that divides the ranks, at each (precision, activation checkpointing) of `how`.

    A single rank also trains `plain`: the same network without any wrapper, which all others must equal.
    """
    from geofm_lib.distributed import sharding
    from geofm_lib.model import vit

    out = {}
    for strategy in arguments["strategies"]:
        for precision, checkpointing in arguments["how"]:
            how = {"precision": precision, "activation_checkpointing": checkpointing, "seed": 7}
            model = sharding.apply(_model(), strategy, world=ranks.world, device=ranks.device, **how)
            out[f"{strategy}/{precision}/{checkpointing}"] = _train(model, ranks)
    if ranks.world == 1:
        out["plain/fp32/False"] = _train(vit.materialise(_model(), "cpu", 7), ranks)
    return {"trained": out, "bytes": bytes_sent(ranks, arguments["strategies"]), "guard": guard(ranks)}


def guard(ranks):
    """A step in which the last rank's images hold a nan: what each rank is told, and whether any weight moved."""
    import torch

    from geofm_lib.distributed import sharding, training

    model = sharding.apply(_model(), "NO_SHARD", world=ranks.world, device=ranks.device, seed=7)
    optimiser = training.optimiser(model, 0.05)
    before = _digests(model)
    images, noise = torch.ones(2, 3, 32, 32), torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    if ranks.rank == ranks.world - 1:
        images[0, 0, 0, 0] = float("nan")
    try:
        training.step(model, optimiser, [lambda: model(images, noise)], parts=1, rate=0.1, clip=1.0)
        told = {}
    except training.NotFinite as fault:
        told = {"own": str(fault.own_loss), "all": str(fault.loss), "names": training.not_finite(model)}
    return ranks.gather({**told, "moved": _digests(model) != before})


def _digests(model) -> dict[str, str]:
    held = {n: p.to_local() if hasattr(p, "to_local") else p for n, p in model.named_parameters()}
    return {n: hashlib.sha256(p.detach().numpy().tobytes()).hexdigest() for n, p in held.items()}


def compiled(ranks, arguments):
    """A training with each block compiled, beside the same one without; both weights at the end and their names."""
    from geofm_lib.distributed import checkpoint, sharding

    out = {}
    for compile in (False, True):
        model = sharding.apply(
            _model(),
            arguments["strategy"],
            world=ranks.world,
            device=ranks.device,
            seed=7,
            compile=compile,
            **arguments["how"],
        )
        out[str(compile)] = {**_train(model, ranks), "names": list(checkpoint.layout(model))}
    return out


def prefetch(ranks, arguments):
    """The order in which blocks are gathered (`G3`) and computed (`F3`, `B3`) at each depth of prefetch; the losses."""
    return {str(depth): _gathers(ranks, depth) for depth in arguments["depths"]}


def _gathers(ranks, depth):
    import torch

    from geofm_lib.distributed import sharding, training

    ahead = {"forward_prefetch": depth, "backward_prefetch": depth}
    model = sharding.apply(_model(), "FULL_SHARD", world=ranks.world, device=ranks.device, seed=7, **ahead)
    events = []
    for number, block in enumerate(model.encoder.blocks):
        group = block._get_fsdp_state()._fsdp_param_group

        def unshard(*args, number=number, group=group, usual=group.unshard):
            if group.is_sharded and group._all_gather_result is None:
                events.append(f"G{number}")
            return usual(*args)

        group.unshard = unshard
        block.register_forward_hook(lambda *_, number=number: events.append(f"F{number}"))
        block.mlp.fc2.register_full_backward_hook(lambda *_, number=number: events.append(f"B{number}"))
    pair = torch.ones(2, 3, 32, 32), torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    optimiser = training.optimiser(model, 0.0)
    loss = training.step(model, optimiser, [lambda: model(*pair)], parts=1, rate=0.1, clip=1.0).loss
    return {"events": events, "loss": loss}


def curves(ranks, arguments):
    """The pretraining job itself, several times, each with its settings and the step at which it is asked to stop; how
    each of them ended."""
    from geofm_lib.jobs import pretrain, run_folder
    from geofm_lib.settings import PretrainSettings

    class StopsAt(run_folder.Folder):
        steps, asked = None, 0

        def stop_requested(self):
            self.asked += 1
            return self.asked == self.steps

    ended = []
    for told in arguments["runs"]:
        settings = PretrainSettings(**told["settings"], ranks=ranks.world)
        if ranks.is_main:
            settings.folder().mkdir(parents=True, exist_ok=True)
        ranks.barrier()
        run = StopsAt(settings.folder(), ranks.is_main)
        run.steps = told.get("stop")
        try:
            pretrain.run(settings, ranks, run)
            ended.append("finished")
        except run_folder.Stopped as stop:
            ended.append(str(stop))
        ranks.barrier()
    return ended


def measured(ranks, arguments):
    """The throughput job under several settings: the run folder of each, its summary written as a worker would."""
    from geofm_lib.jobs import run_folder, throughput
    from geofm_lib.settings import ThroughputSettings

    folders = {}
    for name, told in arguments["runs"].items():
        path = Path(arguments["place"]) / name
        settings = ThroughputSettings(**told, ranks=ranks.world, run_dir=str(path))
        if ranks.is_main:
            path.mkdir(parents=True)
            asked = {"job": "throughput", "asked": settings.asked(), "resolved": {"ranks": ranks.world}}
            (path / "settings.json").write_text(json.dumps(asked))
        ranks.barrier()
        run = run_folder.Folder(path, ranks.is_main)
        run.write_json("summary.json", {"status": "finished", **throughput.run(settings, ranks, run)})
        folders[name] = str(path)
    return folders


def bytes_sent(ranks, strategies):
    """What the meter counts in one step of each strategy."""
    from geofm_lib.distributed import sharding
    from geofm_lib.profiling import meters

    out = {}
    for strategy in strategies:
        model = sharding.apply(_model(), strategy, world=ranks.world, device=ranks.device, seed=7)
        with meters.CollectiveBytes() as counted:
            _one_step(model, ranks)
        out[strategy] = counted.bytes
    return out


def held(ranks, arguments):
    """What two real steps of each strategy hold and send on rank 0, and torch's own count of what is sharded."""
    import torch

    from geofm_lib.distributed import sharding, training
    from geofm_lib.jobs import simulate, throughput
    from geofm_lib.settings import SimulateSettings

    out = {}
    for strategy in arguments["strategies"]:
        settings = SimulateSettings(**arguments["settings"], strategy=strategy, gpus=ranks.world)
        how = {"precision": settings.precision, "activation_checkpointing": settings.activation_checkpointing}
        model = sharding.apply(throughput.network(settings), strategy, world=ranks.world, device=ranks.device, **how)
        images, labels = simulate.inputs(settings)
        found = simulate.two_steps(model, images, labels)
        optimiser = training.optimiser(model, 0.0)
        model(images, labels).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        counted = {"parameters": sharding.local_bytes(model.parameters()), "gradients": sharding.local_bytes(gradients)}
        optimiser.step()
        moments = [v for state in optimiser.state.values() for v in state.values() if torch.is_tensor(v)]
        out[strategy] = found | {"counted": counted | {"optimiser": sharding.local_bytes(moments)}}
    return out


def findings(ranks, arguments):
    """The findings job, and what it says of replicas under a torch without FSDP1."""
    import torch.distributed.fsdp

    from geofm_lib.jobs import findings as job
    from geofm_lib.jobs.run_folder import Folder
    from geofm_lib.settings import FindingsSettings

    settings = FindingsSettings(**arguments["settings"], ranks=ranks.world)
    job.PAPER_STEPS = 15  # enough to settle
    found = job.run(settings, ranks, Folder(arguments["run_dir"], ranks.is_main))
    del torch.distributed.fsdp.FullyShardedDataParallel
    return {"with": found, "without": job.replicas(settings, ranks)}


def _one_step(model, ranks):
    import torch

    from geofm_lib.distributed import training

    pair = torch.randn(4, 3, 32, 32), torch.rand(4, 16)
    training.step(model, training.optimiser(model, 0.0), [lambda: model(*pair)], parts=1, rate=0.0, clip=0.0)


def save(ranks, arguments):
    """Save at steps 0, 1 and 2, then go on for two steps; the weights saved last and the losses after.

    `first 1` saves nothing at step 0, `zero` saves at step 0 only.
    """
    import torch

    from geofm_lib.distributed import checkpoint, sharding, training

    out, state = {}, {"run": "a"}
    for name, suffix, saves, steps in (
        ("first 0", "", (0, 1, 2), 2),
        ("first 1", "-from-1", (1, 2), 2),
        ("zero", "-zero", (0,), 0),
    ):
        folder = Path(arguments["checkpoint"] + suffix)
        model = sharding.apply(_model(), arguments["strategy"], world=ranks.world, device=ranks.device, seed=7)
        optimiser = training.optimiser(model, 0.05)
        torch.manual_seed(11)
        for step in range(steps + 1):
            if step:
                _step_of(model, optimiser, ranks)
                torch.rand(1)
            if step in saves:
                checkpoint.save(folder, step, model, optimiser, state, ranks, keep=2)
        out[name] = _after(model, optimiser, ranks)
    return out


def load(ranks, arguments):
    """Load as told, several times in turn; for each the step, the weights and the losses after, or the error."""
    from geofm_lib.distributed import checkpoint, sharding, training

    found = []
    for told in arguments["loads"]:
        model = sharding.apply(
            _model(decoder_depth=told.get("decoder_depth")),
            told["strategy"],
            world=ranks.world,
            device=ranks.device,
            seed=8,
        )
        optimiser = training.optimiser(model, 0.05)
        before = _digests(model)
        try:
            step = checkpoint.load(Path(told["checkpoint"]), model, optimiser, {"run": told.get("run", "a")}, ranks)
            found.append({"step": step, **_after(model, optimiser, ranks)})
        except checkpoint.CheckpointError as error:
            found.append({"error": str(error), "moved": _digests(model) != before})
    return found


def again(ranks, arguments):
    """Load what there is, take a step and save it: at a step that a damaged checkpoint held before."""
    from geofm_lib.distributed import checkpoint, sharding, training

    folder = Path(arguments["checkpoint"])
    model = sharding.apply(_model(), "NO_SHARD", world=ranks.world, device=ranks.device, seed=8)
    optimiser = training.optimiser(model, 0.05)
    step = checkpoint.load(folder, model, optimiser, {"run": "a"}, ranks)
    _step_of(model, optimiser, ranks)
    checkpoint.save(folder, step + 1, model, optimiser, {"run": "a"}, ranks, keep=2)


def refused(ranks, arguments):
    """What each rank is told when the folder of checkpoints cannot be made."""
    from geofm_lib.distributed import checkpoint, sharding, training

    model = sharding.apply(_model(), "FULL_SHARD", world=ranks.world, device=ranks.device, seed=8)
    try:
        checkpoint.save(Path(arguments["checkpoint"]), 0, model, training.optimiser(model, 0.0), {}, ranks, keep=1)
    except checkpoint.CheckpointError as error:
        return ranks.gather(str(error))


def _after(model, optimiser, ranks) -> dict:
    import torch

    from geofm_lib.distributed import checkpoint

    weights = checkpoint.whole(checkpoint.layout(model))
    digests = {n: hashlib.sha256(t.detach().numpy().tobytes()).hexdigest() for n, t in weights}
    drawn = torch.rand(1).item()  # from the generator as it was left, or loaded
    return {"weights": digests, "losses": [_step_of(model, optimiser, ranks) for _ in range(2)], "drawn": drawn}


def _step_of(model, optimiser, ranks):
    import torch

    from geofm_lib.distributed import training

    generator = torch.Generator().manual_seed(3)
    images, noise = torch.randn(8, 3, 32, 32, generator=generator), torch.rand(8, 16, generator=generator)
    own = slice(ranks.rank * 8 // ranks.world, (ranks.rank + 1) * 8 // ranks.world)
    functions = [lambda: model(images[own], noise[own])]
    return training.step(model, optimiser, functions, parts=1, rate=1e-3, clip=1.0).loss


def main(folder: Path, world: int) -> int:
    """Fork the ranks; 0 when all of them ended well. The first that fails ends the others."""
    import torch._dynamo  # noqa: F401  what FSDP imports when it first runs

    from geofm_lib.distributed import checkpoint, sharding  # noqa: F401
    from geofm_lib.jobs import pretrain  # noqa: F401

    children = set()
    for rank in range(world):
        child = os.fork()
        if not child:
            os._exit(_rank(folder, rank))
        children.add(child)
    code = 0
    while children and not code:
        child, status = os.wait()
        children.discard(child)
        code = os.waitstatus_to_exitcode(status)
    for child in children:
        os.kill(child, 9)
    return code


def _rank(folder: Path, rank: int) -> int:
    from geofm_lib.distributed import context as ranks_module

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    try:
        me = ranks_module.start(folder, "cpu")
        told = json.loads((folder / "programs.json").read_text())
        results = {name: globals()[name](me, arguments) for name, arguments in told.items()}
        if me.is_main:
            (folder / "result.json").write_text(json.dumps(results))
        ranks_module.stop(me)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
