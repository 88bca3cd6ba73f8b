"""Start a few real ranks of small programs: `python -m tests.support.ranks RUN_DIR WORLD`, and the programs themselves.

The ranks are forked from one process that has imported torch and done nothing with it: an import costs each process
several seconds. (Runs are started otherwise, see geofm_lib/runs/launch.py.)
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

from tests.support.timing import scaled

REPO = Path(__file__).parents[2]


def start(program: str, folder: Path, world: int, **arguments):
    """Run one `program` below on `world` CPU ranks; returns its result."""
    return start_all({program: arguments}, folder, world)[program]


def start_all(programs: dict[str, dict], folder: Path, world: int, seconds: float = 500) -> dict:
    """Run several, each with its arguments, in the same ranks (starting them takes seconds); name -> result."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "programs.json").write_text(json.dumps(programs))
    (folder / f".rendezvous-test{world}.json").unlink(missing_ok=True)
    base = {**os.environ, "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    base.update(GLOO_SOCKET_IFNAME="lo", GEOFM_LAUNCH=f"test{world}")
    command = [sys.executable, "-m", "tests.support.ranks", str(folder), str(world)]
    done = subprocess.run(command, cwd=REPO, env=base, capture_output=True, text=True, timeout=scaled(seconds))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "result.json").read_text())


def _model(decoder_depth=None, image_size=32, channels=3):
    from geofm_lib.model import mae

    return mae.build("ViT-Atto", image_size, channels, "meta", 8, decoder_depth=decoder_depth, norm_pix_loss=True)


def _sharded(model, strategy, context, kernels=(), **how):
    from geofm_lib.distributed import sharding
    from geofm_lib.model.kernels import Kernels, use

    for stack in sharding.stacks(model):
        use(stack, Kernels(*kernels))
    return sharding.apply(model, strategy, world_size=context.world_size, device=context.device, **how)


def _train(model, context, steps=5, batch=16, parts=1, holes=False):
    """Losses and gradient norms of a few AdamW steps with clipping on a fixed global batch.

    holes: were parts of most images not measured? Then also which share of the targets was not.
    """
    import torch

    from geofm_lib.distributed import training

    optimiser = training.optimiser(model, 0.05)
    generator = torch.Generator().manual_seed(5)
    losses, norms, shares, same = [], [], [], []
    for _ in range(steps):
        images = torch.randn(batch, 3, 32, 32, generator=generator)
        noise = torch.rand(batch, 16, generator=generator)
        whole = [images, noise, *([_holes(batch, generator)] if holes else [])]
        divided = [each.view(parts, context.world_size, -1, *each.shape[1:])[:, context.rank] for each in whole]
        functions = [lambda inputs=inputs: model(*inputs) for inputs in zip(*divided, strict=True)]
        own_shares = []

        def losses_of(functions=functions, own_shares=own_shares):
            for function in functions:
                yield function
                own_shares.append(getattr(model, "module", model).not_measured)

        def share(own_shares=own_shares):
            return torch.stack(own_shares).mean()

        also = share if holes else None
        found = training.step(model, optimiser, losses_of(), parts=parts, rate=1e-3, clip=0.5, also=also)
        losses.append(found.loss)
        norms.append(found.norm)
        shares += found.also
        same.append(_replicas_equal(model, context))
    out = {"losses": losses, "norms": norms, "replicas_equal": all(same)}
    return out | ({"shares": shares} if holes else {})


def _holes(batch, generator):
    """Where images were measured: everywhere, in a few rows or pixels alone, or nowhere."""
    import torch

    valid = torch.ones(batch, 1, 32, 32, dtype=torch.bool)
    for k, each in enumerate(valid):
        if k % 4 == 1:
            each[:, : int(torch.randint(1, 32, (1,), generator=generator))] = False
        elif k % 4 == 2:
            each[:] = torch.rand(1, 32, 32, generator=generator) < 0.02
        elif k % 8 == 3:
            each[:] = False
    return valid


def masked(context, arguments):
    """Every strategy on images that were not measured everywhere, in one and in two micro-batches."""
    from geofm_lib.model.init import materialise

    out = {}
    for strategy in arguments["strategies"]:
        for precision, parts in (("fp32", 1), ("fp32", 2), *((each, 1) for each in arguments["others"])):
            model = _sharded(_model(), strategy, context, precision=precision, seed=7)
            out[f"{strategy}/{precision}/{parts}"] = _train(model, context, steps=2, parts=parts, holes=True)
    if context.world_size == 1:
        out["plain"] = _train(materialise(_model(), "cpu", 7), context, steps=2, holes=True)
    return out


def contrasted(context, arguments):
    """Views that are compared, alone and beside MAE: losses, norms and equality of replicas, some images being of one
    place. strategies: by objective, (strategy, precision); so many `steps`. One rank also trains without a wrapper.
    """
    import torch

    from geofm_lib.distributed import contrast, training
    from geofm_lib.model import contrastive, mae
    from geofm_lib.model.init import materialise

    makers = {
        "contrastive": lambda: contrastive.build("ViT-Atto", 32, 3, "meta", 8, 16),
        "both": lambda: mae.build("ViT-Atto", 32, 3, "meta", 8, norm_pix_loss=True, projection=16),
    }

    def train(model, objective, batch=8):
        optimiser = training.optimiser(model, 0.05)
        generator = torch.Generator().manual_seed(5)
        own = slice(context.rank * batch // context.world_size, (context.rank + 1) * batch // context.world_size)
        out = {"losses": [], "norms": []}
        for _ in range(arguments["steps"]):
            images = torch.randn(2, batch, 3, 32, 32, generator=generator)
            noise = torch.rand(2, batch, 16, generator=generator)
            parts = [each[:, own].flatten(0, 1) for each in (images, noise)]

            def loss(parts=parts):
                found = model(*parts[: 1 + (objective == "both")])
                rebuilt, projected = found if objective == "both" else (0.0, found)
                return rebuilt + 0.1 * contrast.info_nce(projected, 0.1, (torch.arange(batch) // 2)[own])

            found = training.step(model, optimiser, [loss], parts=1, rate=1e-3, clip=0.5)
            out["losses"].append(found.loss)
            out["norms"].append(found.norm)
        return out | {"replicas_equal": _replicas_equal(model, context)}

    out = {}
    for objective, make in makers.items():
        for strategy, precision in arguments["strategies"][objective]:
            model = _sharded(make(), strategy, context, seed=7, precision=precision)
            out[f"{objective}/{strategy}/{precision}"] = train(model, objective)
        if context.world_size == 1:
            out[f"{objective}/plain"] = train(materialise(make(), "cpu", 7), objective)
    return out


def transfer(context, arguments):
    """Losses of all steps and the values of all arms of 08, by task, strategy and `hows` (more settings)."""
    from geofm_lib.jobs import transfer as job
    from geofm_lib.jobs.run_folder import Folder
    from geofm_lib.settings import TransferSettings

    out = {}
    for task, data in arguments["tasks"].items():
        cases = [(strategy, "") for strategy in arguments["strategies"]]
        for strategy, how in [*cases, *((arguments["strategies"][0], name) for name in arguments["hows"])]:
            folder = Path(arguments["place"]) / f"{context.world_size}-{task}-{strategy}-{how}"
            if context.is_main:
                folder.mkdir(parents=True)
            context.barrier()
            more = arguments["hows"].get(how, {})
            settings = TransferSettings(**arguments["how"] | more, task=task, data=data, strategy=strategy)
            run = Folder(folder, context.is_main)
            found = context.broadcast(job.run(settings, context, run))
            values = {name: value for name, value in found.items() if name.startswith("value_")}
            losses = context.broadcast([row["loss"] for row in run.metrics()])
            out[f"{task}/{how or strategy}"] = {"losses": losses, "values": values}
    return out


def _replicas_equal(model, context) -> bool:
    """Do all ranks that hold the same part of a weight hold the same bits?"""
    places = {n: str(getattr(p, "__create_chunk_list__", lambda: "whole")()) for n, p in model.named_parameters()}
    together = context.gather([[f"{name} {places[name]}", digest] for name, digest in _digests(model).items()])
    seen: dict[str, set[str]] = {}
    for key, digest in (pair for own in together or [] for pair in own):
        seen.setdefault(key, set()).add(digest)
    return context.broadcast(all(len(digests) == 1 for digests in seen.values()))


def unsynchronised(context, arguments):
    """Replicas whose gradients are never reduced, as in FSDP1's HYBRID_1GPU: what the equality of bits must tell."""
    from geofm_lib.model.init import materialise

    return _train(materialise(_model(), "cpu", 7), context, steps=1)["replicas_equal"]


def equality(context, arguments):
    """Every strategy that divides the ranks, at each (precision, activation checkpointing) of `how`.

    A single rank also trains `plain`: the same network without any wrapper, which all others must equal.
    """
    from geofm_lib.model.init import materialise

    out = {}
    for strategy in arguments["strategies"]:
        for precision, checkpointing in arguments["how"]:
            how = {"precision": precision, "activation_checkpointing": checkpointing, "seed": 7}
            model = _sharded(_model(), strategy, context, **how)
            out[f"{strategy}/{precision}/{checkpointing}"] = _train(model, context)
    if context.world_size == 1:
        out["plain/fp32/False"] = _train(materialise(_model(), "cpu", 7), context)
    return {"trained": out, "bytes": bytes_sent(context, arguments["strategies"]), "guard": guard(context)}


def alone(context, arguments):
    """One rank with the strategy's wrapper and without: losses, norms, and the digests of the last weights.

    By `hows` (further arguments of `apply`) and the number of micro-batches. What both save, and load of the other's.
    """
    out, place, kinds = {}, arguments["place"], {"wrapped": True, "bare": False}
    same = {"strategy": "FULL_SHARD"}
    saved = {k: save(context, same | {"checkpoint": f"{place}/{k}", "wrapped": w}) for k, w in kinds.items()}
    loads = [same | {"checkpoint": f"{place}/{kind}", "wrapped": not wrapped} for kind, wrapped in kinds.items()]
    loaded = dict(zip(kinds, load(context, {"loads": loads}), strict=True))
    for name, how in arguments["hows"].items():
        for parts in arguments["parts"]:
            for wrapped in (True, False):
                model = _sharded(_model(), "FULL_SHARD", context, seed=7, wrapped=wrapped, **how)
                found = _train(model, context, parts=parts) | {"weights": _digests(model)}
                out.setdefault(f"{name}/{parts}", []).append(found)
    return {"trained": out, "saved": saved, "loaded": loaded}


def together(context, arguments):
    """Losses, norms and last weights with blocks gathered each by itself and as one: lists by strategy."""
    out = {}
    for strategy, how in arguments["hows"].items():
        for least in arguments["least"]:
            model = _sharded(_model(), strategy, context, seed=7, together=least, **how)
            out.setdefault(strategy, []).append([_train(model, context, steps=2, parts=2), _digests(model)])
    return out


def gradients(context, arguments):
    """How far one global batch's bf16 gradient is from fp32's on one process, of the latter's norm; its dtypes.

    By strategy, number of micro-batches and `hows`, further arguments of `apply`.
    """
    from geofm_lib.model.init import materialise

    batch, out = arguments["batch"], {}
    true = _gradient(materialise(_model(), "cpu", 7), batch, 1, 0, 1)
    size = sum(each.square().sum() for each in true.values()).sqrt()
    for strategy in arguments["strategies"]:
        for parts in arguments["parts"]:
            for name, how in arguments["hows"].items():
                model = _sharded(_model(), strategy, context, seed=7, **{"precision": "bf16"} | how)
                found = _gradient(model, batch, parts, context.rank, context.world_size)
                assert found.keys() == true.keys()
                off = sum((found[n] - true[n]).square().sum() for n in true).sqrt() / size
                types = sorted({str(each.dtype) for each in found.values()})
                out[f"{strategy}/{parts}/{name}"] = {"off": float(off), "types": types}
    return out


def _gradient(model, batch, parts, rank, world) -> dict:
    """The whole gradient of a global batch, as `training.step` hands it to the optimiser."""
    import torch

    from geofm_lib.distributed import training
    from geofm_lib.model.init import plain_name

    class Keeps(torch.optim.SGD):
        def step(self):
            held = {plain_name(n): p.grad for n, p in model.named_parameters() if p.requires_grad}
            self.found = {n: g.full_tensor() if hasattr(g, "full_tensor") else g.clone() for n, g in held.items()}

    generator = torch.Generator().manual_seed(5)
    whole = torch.randn(batch, 3, 32, 32, generator=generator), torch.rand(batch, 16, generator=generator)
    divided = [each.view(parts, world, -1, *each.shape[1:])[:, rank] for each in whole]
    losses = [lambda inputs=inputs: model(*inputs) for inputs in zip(*divided, strict=True)]
    keeps = Keeps(model.parameters(), lr=0.0)
    training.step(model, keeps, losses, parts=parts, rate=0.0, clip=0.0)
    return keeps.found


def fifty(context, arguments):
    """Losses of 50 steps in bf16, by strategy and number of micro-batches."""
    out = {}
    for strategy in arguments["strategies"]:
        for parts in arguments["parts"]:
            model = _sharded(_model(), strategy, context, seed=7, precision="bf16")
            out[f"{strategy}/{parts}"] = _train(model, context, steps=50, parts=parts)["losses"]
    return out


def guard(context):
    """A step in which the last rank's images hold a nan: what each rank says of it, and whether any weight moved."""
    import torch

    from geofm_lib.distributed import training

    model = _sharded(_model(), "NO_SHARD", context, seed=7)
    optimiser = training.optimiser(model, 0.05)
    before = _digests(model)
    images, noise = torch.ones(2, 3, 32, 32), torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    if context.rank == context.world_size - 1:
        images[0, 0, 0, 0] = float("nan")
    try:
        training.step(model, optimiser, [lambda: model(images, noise)], parts=1, rate=0.1, clip=1.0)
        said = {}
    except training.NotFinite as fault:
        said = {"own": str(fault.own_loss), "all": str(fault.loss), "names": training.not_finite(model)}
    return context.gather({**said, "moved": _digests(model) != before})


def _digests(model) -> dict[str, str]:
    held = {n: p.to_local() if hasattr(p, "to_local") else p for n, p in model.named_parameters()}
    return {n: hashlib.sha256(p.detach().numpy().tobytes()).hexdigest() for n, p in held.items()}


def compiled(context, arguments):
    """A training with each block compiled, beside the same one without; both weights at the end and their names."""
    from geofm_lib.distributed import export

    out = {}
    for compile in (False, True):
        model = _sharded(
            _model(),
            arguments["strategy"],
            context,
            seed=7,
            compile=compile,
            **arguments["how"],
        )
        trained = _train(model, context, holes=arguments.get("holes", False))
        out[str(compile)] = {**trained, "names": list(export.weights_of(model))}
    return out


def prefetch(context, arguments):
    """The order in which blocks are gathered (`G3`) and computed (`F3`, `B3`) at each depth of prefetch; the losses."""
    return {str(depth): _gathers(context, depth) for depth in arguments["depths"]}


def _gathers(context, depth):
    import torch

    from geofm_lib.distributed import training

    ahead = {"forward_prefetch": depth, "backward_prefetch": depth}
    model = _sharded(_model(), "FULL_SHARD", context, seed=7, **ahead)
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


def curves(context, arguments):
    """The pretraining job itself, several times, each with its settings, the step at which it is asked to stop, a
    folder to remove before it, and one to which its run is copied after it; how each of them ended.

    `nan`: the steps at which its images are not finite. `launched`: with the files that the launcher leaves.
    """
    from geofm_lib.distributed import training
    from geofm_lib.jobs import pretrain, run_folder
    from geofm_lib.settings import PretrainSettings, Resolved

    class StopsAt(run_folder.Folder):
        steps, asked = None, 0

        def stop_requested(self):
            self.asked += 1
            return self.asked == self.steps

    ended = []
    for each in arguments["runs"]:
        settings = PretrainSettings(**each["settings"], ranks=context.world_size)
        if context.is_main:
            settings.folder().mkdir(parents=True, exist_ok=True)
            shutil.rmtree(each.get("remove", ""), ignore_errors=True)
        context.barrier()
        came_to = context.broadcast(_launched(settings) if context.is_main and each.get("launched") else {})
        run = StopsAt(settings.folder(), context.is_main, resolved=Resolved(**came_to))
        run.steps = each.get("stop")
        try:
            with _spoilt(pretrain, each.get("nan", ())):
                pretrain.run(settings, context, run)
            ended.append("finished")
        except (run_folder.Stopped, training.NotFinite, ValueError) as stop:
            ended.append(str(stop))
        context.barrier()
        if context.is_main and "copy" in each:
            shutil.copytree(settings.folder(), each["copy"])
    return ended


def _launched(settings) -> dict:
    """settings.json and what a branch needs, as the launcher leaves them; what the settings came to."""
    from geofm_lib import files
    from geofm_lib.data.sources import prepared
    from geofm_lib.runs import branch
    from geofm_lib.settings import Resolved

    found = {"data": settings.data, "data_fingerprint": prepared.fingerprint(Path(settings.data))}
    found |= branch.resolved(settings, found["data_fingerprint"], "") if settings.branch else {}
    asked = {"job": "pretrain", "asked": settings.asked(), "resolved": found}
    files.write_json(settings.folder() / "settings.json", asked)
    branch.keep(settings.folder(), Resolved(**found))
    return found


@contextlib.contextmanager
def _spoilt(job, steps):
    """Make the images of these steps not finite, as a decoder's fault would."""
    usual = job.loader.stream

    def stream(*args, **how):
        for step, epoch, batches in usual(*args, **how):
            if step + 1 in steps:
                batches = [(images.float() * float("nan"), indices) for images, indices in batches]
            yield step, epoch, batches

    job.loader.stream = stream
    try:
        yield
    finally:
        job.loader.stream = usual


def first_weights(context, arguments):
    """The digests of all weights that `init` gives a model under each strategy."""
    from geofm_lib.distributed import export, training
    from geofm_lib.jobs import pretrain_start, run_folder
    from geofm_lib.settings import PretrainSettings

    found = {}
    for strategy in arguments["strategies"]:
        settings = PretrainSettings(model="ViT-Atto", image_size=64, init=arguments["init"])
        folder = Path(arguments["place"]) / f"{strategy}-{context.world_size}"
        if context.is_main:
            folder.mkdir()
        context.barrier()
        start = pretrain_start.Start(settings, run_folder.Folder(folder, context.is_main), context)
        plain = _model(image_size=64, channels=13)
        model = _sharded(plain, strategy, context, seed=7)
        start.apply(model, training.optimiser(model, 0.05), plain)
        weights = export.whole(export.weights_of(model))
        found[strategy] = {n: hashlib.sha256(t.detach().numpy().tobytes()).hexdigest() for n, t in weights}
    return found


def measured(context, arguments):
    """The throughput job under several settings: the run folder of each, its summary written as a worker would."""
    from geofm_lib.jobs import run_folder, throughput
    from geofm_lib.settings import ThroughputSettings

    folders = {}
    for name, values in arguments["runs"].items():
        path = Path(arguments["place"]) / name
        settings = ThroughputSettings(**values, ranks=context.world_size, run_dir=str(path))
        if context.is_main:
            path.mkdir(parents=True)
            asked = {"job": "throughput", "asked": settings.asked(), "resolved": {"ranks": context.world_size}}
            (path / "settings.json").write_text(json.dumps(asked))
        context.barrier()
        run = run_folder.Folder(path, context.is_main)
        run.write_json("summary.json", {"status": "finished", **throughput.run(settings, context, run)})
        folders[name] = str(path)
    return folders


def bytes_sent(context, strategies):
    """What the meter counts in one step of each strategy."""
    from geofm_lib.profiling import meters

    out = {}
    for strategy in strategies:
        model = _sharded(_model(), strategy, context, seed=7)
        with meters.CollectiveBytes() as counted:
            _one_step(model, context)
        out[strategy] = counted.bytes
    return out


def held(context, arguments):
    """What two real steps of each strategy hold and send on rank 0, and torch's own count of what is sharded."""
    from geofm_lib.distributed import sharding, training
    from geofm_lib.jobs import simulate
    from geofm_lib.profiling import step_timing
    from geofm_lib.profiling.memory_tracker import moments
    from geofm_lib.settings import SimulateSettings

    out = {}
    for strategy in arguments["strategies"]:
        settings = SimulateSettings(**arguments["settings"], strategy=strategy, gpus=context.world_size)
        how = {name: getattr(settings, name) for name in ("precision", "reduce_dtype", "activation_checkpointing")}
        network = step_timing.build(settings.workload, settings.model, settings.image_size, 3, settings.patch())
        model = _sharded(network, strategy, context, **how)
        images, labels = simulate.inputs(settings)
        found = simulate.two_steps(model, (images, labels))
        optimiser = training.optimiser(model, 0.0)
        model(images, labels).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        counted = {"parameters": sharding.local_bytes(model.parameters()), "gradients": sharding.local_bytes(gradients)}
        optimiser.step()
        counted["optimiser"] = sharding.local_bytes(moments(optimiser))
        found = {"peak": found.memory.peak, "bytes": found.bytes, "calls": found.calls}
        out[strategy] = found | {"counted": counted}
    return out


def findings(context, arguments):
    """The findings job, and what it says of replicas under a torch without FSDP1."""
    import torch.distributed.fsdp

    from geofm_lib.jobs import findings as job
    from geofm_lib.jobs.run_folder import Folder
    from geofm_lib.settings import FindingsSettings

    settings = FindingsSettings(**arguments["settings"], ranks=context.world_size)
    job.PAPER_STEPS = 15  # enough to settle
    found = job.run(settings, context, Folder(arguments["run_dir"], context.is_main))
    del torch.distributed.fsdp.FullyShardedDataParallel
    return {"with": found, "without": job.replicas(settings, context)}


def _one_step(model, context):
    import torch

    from geofm_lib.distributed import training

    pair = torch.randn(4, 3, 32, 32), torch.rand(4, 16)
    training.step(model, training.optimiser(model, 0.0), [lambda: model(*pair)], parts=1, rate=0.0, clip=0.0)


def save(context, arguments):
    """Save at steps 0, 1 and 2, then go on for two steps; the weights saved last and the losses after.

    `first 1` saves nothing at step 0, `zero` saves at step 0 only.
    """
    import torch

    from geofm_lib.distributed import checkpoint, training

    out, state = {}, {"run": "a"}
    for name, suffix, saves, steps in (
        ("first 0", "", (0, 1, 2), 2),
        ("first 1", "-from-1", (1, 2), 2),
        ("zero", "-zero", (0,), 0),
    ):
        folder = Path(arguments["checkpoint"] + suffix)
        how = {"wrapped": arguments.get("wrapped", False)}
        model = _sharded(_model(), arguments["strategy"], context, seed=7, **how)
        optimiser = training.optimiser(model, 0.05)
        torch.manual_seed(11)
        for step in range(steps + 1):
            if step:
                _step_of(model, optimiser, context)
                torch.rand(1)
            if step in saves:
                checkpoint.save(folder, step, model, optimiser, state, context, keep=2)
        out[name] = _after(model, optimiser, context)
    return out


def load(context, arguments):
    """Load several times in turn; for each the step, the weights and the losses after, or the error."""
    from geofm_lib.distributed import checkpoint, training

    found = []
    for case in arguments["loads"]:
        model = _sharded(
            _model(decoder_depth=case.get("decoder_depth")),
            case["strategy"],
            context,
            seed=8,
            wrapped=case.get("wrapped", False),
        )
        optimiser = training.optimiser(model, 0.05)
        before = _digests(model)
        try:
            step = checkpoint.load(Path(case["checkpoint"]), model, optimiser, {"run": case.get("run", "a")}, context)
            found.append({"step": step, **_after(model, optimiser, context)})
        except checkpoint.CheckpointError as error:
            found.append({"error": str(error), "moved": _digests(model) != before})
    return found


def again(context, arguments):
    """Load what there is, take a step and save it: at a step that a damaged checkpoint held before."""
    from geofm_lib.distributed import checkpoint, training

    folder = Path(arguments["checkpoint"])
    model = _sharded(_model(), "NO_SHARD", context, seed=8)
    optimiser = training.optimiser(model, 0.05)
    step = checkpoint.load(folder, model, optimiser, {"run": "a"}, context)
    _step_of(model, optimiser, context)
    checkpoint.save(folder, step + 1, model, optimiser, {"run": "a"}, context, keep=2)


def refused(context, arguments):
    """What each rank says when the folder of checkpoints cannot be made."""
    from geofm_lib.distributed import checkpoint, training

    model = _sharded(_model(), "FULL_SHARD", context, seed=8)
    try:
        checkpoint.save(Path(arguments["checkpoint"]), 0, model, training.optimiser(model, 0.0), {}, context, keep=1)
    except checkpoint.CheckpointError as error:
        return context.gather(str(error))


def _after(model, optimiser, context) -> dict:
    import torch

    from geofm_lib.distributed import export

    weights = export.whole(export.weights_of(model))
    digests = {n: hashlib.sha256(t.detach().numpy().tobytes()).hexdigest() for n, t in weights}
    drawn = torch.rand(1).item()  # from the generator as it was left, or loaded
    return {"weights": digests, "losses": [_step_of(model, optimiser, context) for _ in range(2)], "drawn": drawn}


def _step_of(model, optimiser, context):
    import torch

    from geofm_lib.distributed import training

    generator = torch.Generator().manual_seed(3)
    images, noise = torch.randn(8, 3, 32, 32, generator=generator), torch.rand(8, 16, generator=generator)
    own = slice(context.rank * 8 // context.world_size, (context.rank + 1) * 8 // context.world_size)
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
    from geofm_lib.distributed.context import join, leave

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    try:
        me = join(folder, "cpu")
        programs = json.loads((folder / "programs.json").read_text())
        results = {name: globals()[name](me, arguments) for name, arguments in programs.items()}
        if me.is_main:
            (folder / "result.json").write_text(json.dumps(results))
        leave(me)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
