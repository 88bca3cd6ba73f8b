"""Checkpoints: resume elsewhere, damage found and named, step 0 harmless, nothing foreign loaded."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import need
from tests.support import ranks
from tests.support.ranks import REPO
from tests.support.timing import scaled


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(the folder of checkpoints, what was saved in it) of a training on 2 ranks FULL_SHARD."""
    folder = tmp_path_factory.mktemp("checkpoint")
    place = folder / "kept"
    return place, ranks.start("save", folder / "save", 2, checkpoint=str(place), strategy="FULL_SHARD")


def flip(file: Path) -> None:
    """One bit of the byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def sign(step: Path) -> None:
    """Make all digests of a checkpoint right again, as somebody would who means harm."""
    manifest = json.loads((step / "manifest.json").read_text())
    manifest["files"] = {name: hashlib.sha256((step / name).read_bytes()).hexdigest() for name in manifest["files"]}
    manifest.pop("digest")
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (step / "manifest.json").write_text(json.dumps({**manifest, "digest": digest}))


def run_from_the_index(file: Path) -> None:
    """An index that makes a folder when it is unpickled."""
    file.write_bytes(pickle.dumps(_Calls(os.mkdir, str(file.parent.parent / "ran"))))
    sign(file.parent)


def run_by_a_dotted_name(file: Path) -> None:
    """The same through `os`, which torch's own module of the index happens to import."""
    call = b"".join(
        b"\x8c" + bytes([len(word)]) + word for word in (b"torch.distributed.checkpoint.metadata", b"os.mkdir")
    )
    folder = str(file.parent.parent / "ran").encode()
    file.write_bytes(b"\x80\x04" + call + b"\x93X" + len(folder).to_bytes(4, "little") + folder + b"\x85R.")
    sign(file.parent)


def run_from_a_value(file: Path) -> None:
    """A learning rate that makes a folder when it is unpickled, in the place that the index gives it."""
    index = pickle.loads((file.parent / ".metadata").read_bytes())
    key, place = next((k, v) for k, v in index.storage_data.items() if k.fqn.endswith(".lr"))
    stream = io.BytesIO()
    torch.save(_Calls(os.mkdir, str(file.parent.parent / "ran")), stream)
    victim = file.parent / place.relative_path
    index.storage_data[key] = dataclasses.replace(place, offset=victim.stat().st_size, length=len(stream.getvalue()))
    with open(victim, "ab") as data:
        data.write(stream.getvalue())
    (file.parent / ".metadata").write_bytes(pickle.dumps(index))
    sign(file.parent)


def point_outside(file: Path) -> None:
    """An index whose weights lie in another folder."""
    index = pickle.loads(file.read_bytes())
    index.storage_data = {k: dataclasses.replace(v, relative_path="../x") for k, v in index.storage_data.items()}
    file.write_bytes(pickle.dumps(index))
    sign(file.parent)


class _Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


FILES = ("__0_0.distcp", "__1_0.distcp", ".metadata", "manifest.json")
DAMAGE = {  # what is done to a folder that holds one checkpoint -> the words of the sentence
    **{f"flipped {name}": (flip, name, name) for name in FILES},
    "truncated": (truncate, "__1_0.distcp", "__1_0.distcp has changed since it was written"),
    "file missing": (Path.unlink, "__0_0.distcp", "__0_0.distcp is missing"),
    "manifest missing": (Path.unlink, "manifest.json", "its manifest.json is missing or unreadable"),
    "manifest of another make": (lambda f: f.write_text("[1]"), "manifest.json", "missing or unreadable"),
    "program in the index": (run_from_the_index, ".metadata", "names posix.mkdir, so it is not loaded"),
    "program by a dotted name": (run_by_a_dotted_name, ".metadata", "metadata.os.mkdir, so it is not loaded"),
    "program in a value": (run_from_a_value, ".metadata", ".lr is no plain value, so it is not loaded"),
    "weights outside": (point_outside, ".metadata", "refers to ../x, which is none of its files"),
    "another run": (None, {"run": "b"}, "belongs to another run (run: 'a' there, 'b' now); choose another run_dir"),
    "another model": (
        None,
        {"decoder_depth": 1},
        "does not fit this model: decoder_blocks.1.attn.proj.bias is 64 there",
    ),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def elsewhere(saved, tmp_path_factory):
    """What loading gives on one rank, by case: the good checkpoint, and copies of it damaged in every way."""
    place = tmp_path_factory.mktemp("damaged")
    last = sorted(saved[0].glob("step-*"))[-1]
    cases = {
        "good": {"checkpoint": str(saved[0]), "strategy": "DDP"},
        "none": {"checkpoint": str(place / "nothing"), "strategy": "NO_SHARD"},
        "the one before": {"checkpoint": str(place / "before"), "strategy": "NO_SHARD"},
    }
    shutil.copytree(saved[0], place / "before")
    flip(place / "before" / last.name / "__1_0.distcp")
    for case, (damage, where, _) in DAMAGE.items():
        shutil.copytree(last, place / case / last.name)
        cases[case] = {"checkpoint": str(place / case), "strategy": "NO_SHARD"}
        if damage:
            damage(place / case / last.name / where)
        else:
            cases[case] |= where
    before = contents(place)
    found = ranks.start("load", tmp_path_factory.mktemp("load"), 1, loads=list(cases.values()))
    later = f"before/{last.name}"  # was set aside, whole, since the one before it could be used
    before = {name.replace(later, later.replace("step", "damaged")): content for name, content in before.items()}
    assert contents(place) == before
    assert not list(place.rglob("ran")), "no program ran"
    return dict(zip(cases, found, strict=True))


def test_two_are_kept_and_a_checkpoint_at_step_0_changes_nothing(saved):
    assert saved[1]["first 0"] == saved[1]["first 1"]
    assert sorted(p.name for p in saved[0].glob("step-*")) == ["step-00000001", "step-00000002"]


def test_resumes_bitwise_on_the_same_ranks(saved, tmp_path):
    """From step 2, and from step 0, which must be as good as no checkpoint at all."""
    places = [str(saved[0]) + "-from-1", str(saved[0]) + "-zero"]
    loads = [{"checkpoint": place, "strategy": "FULL_SHARD"} for place in places]
    late, zero = ranks.start("load", tmp_path, 2, loads=loads)
    # the losses after two more steps tell that the optimiser's state is the same too
    assert late == {"step": 2, **saved[1]["first 0"]}
    assert zero == {"step": 0, **saved[1]["zero"]}


def test_the_names_in_a_checkpoint_are_those_of_every_version(saved):
    """Runs that were stopped before an update go on after it; a name that changes here would end that."""
    last = sorted(saved[0].glob("step-*"))[-1]
    manifest = json.loads((last / "manifest.json").read_text())
    assert list(manifest) == ["step", "ranks", "state", "files", "digest"]
    assert sorted(manifest["files"]) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    stacks = ((f"{stack}.{i}" for i in range(depth)) for stack, depth in (("encoder.blocks", 4), ("decoder_blocks", 2)))
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    layers = [f"{block}.{part}" for stack in stacks for block in stack for part in parts]
    layers += ["encoder.patch_embed.proj", "encoder.norm", "decoder_embed", "decoder_norm", "decoder_pred"]
    trained = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    trained |= {"encoder.cls_token", "mask_token"}
    moments = ("exp_avg", "exp_avg_sq", "step")
    groups = ("params", "lr", "betas", "eps", "weight_decay")  # and more, by the version of torch
    found = set(pickle.loads((last / ".metadata").read_bytes()).state_dict_metadata)
    needed = {f"generators.rank {rank}.cpu" for rank in (0, 1)}
    needed |= {f"model.{name}" for name in trained | {"encoder.pos_embed", "decoder_pos_embed"}}
    needed |= {f"optimiser.state.{name}.{moment}" for name in trained for moment in moments}
    needed |= {f"optimiser.param_groups.{group}.{name}" for group in (0, 1) for name in groups}
    assert not needed - found
    assert all(name.startswith("optimiser.param_groups.") for name in found - needed)


def test_generators_go_on_where_they_were(saved):
    assert saved[1]["first 0"]["drawn"] != saved[1]["zero"]["drawn"]


def test_resumes_on_other_ranks_and_strategy(saved, elsewhere):
    found, original = elsewhere["good"], saved[1]["first 0"]
    assert found["step"] == 2
    assert found["weights"] == original["weights"]
    assert found["losses"] == pytest.approx(original["losses"], rel=1e-5)


@pytest.mark.parametrize("case", DAMAGE)
def test_what_cannot_be_loaded_is_one_sentence_and_changes_nothing(elsewhere, case):
    found = elsewhere[case]
    assert DAMAGE[case][2] in found["error"]
    assert "\n" not in found["error"]
    assert not found["moved"] or case == "program in a value"  # found while reading; the run ends there


def test_the_one_before_a_damaged_checkpoint_is_used(elsewhere):
    assert elsewhere["the one before"]["step"] == 1


def test_one_that_is_written_again_takes_the_place_of_the_damaged(saved, tmp_path):
    """Two are kept, and neither a damaged one nor one of a later step counts among them."""
    place, last = tmp_path / "kept", sorted(saved[0].glob("step-*"))[-1].name
    shutil.copytree(saved[0], place)
    flip(place / last / "__1_0.distcp")
    ranks.start("again", tmp_path, 1, checkpoint=str(place))
    assert sorted(f.name for f in place.iterdir()) == ["latest", "step-00000001", "step-00000002"]
    assert json.loads((place / last / "manifest.json").read_text())["ranks"] == 1  # saved before on two


def test_a_folder_that_cannot_be_made_is_one_sentence_on_every_rank(tmp_path):
    (tmp_path / "file").write_text("")
    said = ranks.start("refused", tmp_path / "refused", 2, checkpoint=str(tmp_path / "file" / "kept"))
    assert said[0] == said[1]
    assert "could not be written (NotADirectoryError" in said[0]


def test_no_checkpoint_is_no_fault(elsewhere):
    assert elsewhere["none"]["step"] == 0


FILLING = """
import json, subprocess, sys
from pathlib import Path
import torch
from geofm_lib.distributed import checkpoint
from geofm_lib.distributed.context import join
disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
context = join(disk.parent, "cpu")
model = torch.nn.Sequential(*(torch.nn.Linear(31, 3 * k + 1) for k in range(24)))
said = []
for free in range(4, 1000, 20):
    (disk / "fill").write_bytes(bytes((1024 - free) * 1024))
    try:
        checkpoint.save(disk, 2, model, torch.optim.AdamW(model.parameters()), {}, context, keep=1)
        break
    except checkpoint.CheckpointError as error:
        said.append(str(error))
    (disk / "fill").unlink()
print(json.dumps([said, sorted(f.name for f in disk.iterdir())]))
"""


def test_a_disk_is_told_to_be_full_wherever_in_a_file_it_was_full(tmp_path):
    """At some places torch's archive writer tells of its own state ("unexpected pos") and hides what the disk said."""
    need("unshare")
    (tmp_path / "disk").mkdir()
    command = ["unshare", "-rm", sys.executable, "-c", FILLING, str(tmp_path / "disk")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=scaled(200))
    assert done.returncode == 0, done.stderr
    said, left = json.loads(done.stdout.splitlines()[-1])
    assert len(said) > 12
    assert left == ["fill", "latest", "step-00000002"]
    assert [line for line in said if "the disk is full); there is none before it" not in line] == []
