"""08 on several ranks: every strategy gives the losses and values of one process, in micro-batches and in bf16 too."""

import numpy as np
import pytest

from tests.support import ranks
from tests.test_transfer import QUICK, place  # noqa: F401  a fixture

STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_1GPU", "DDP")
HOWS = {"bf16": {"precision": "bf16", "activation_checkpointing": True}, "parts": {"max_batch_per_rank": 1}}


@pytest.mark.long
def test_every_strategy_is_one_process(place, tmp_path):  # noqa: F811
    how = QUICK | {"encoder": str(place / "run" / "encoder"), "seeds": 1, "epochs": 2, "frozen_share": 0.5}
    tasks = {"classify": str(place / "set"), "segment": str(place / "pixels"), "detect": str(place / "boxes")}
    arguments = {"how": how, "hows": HOWS, "tasks": tasks, "place": str(tmp_path / "jobs")}
    one = ranks.start("transfer", tmp_path / "1", 1, strategies=["FULL_SHARD"], **arguments)
    two = ranks.start("transfer", tmp_path / "2", 2, strategies=STRATEGIES, **arguments)
    assert len(two) == len(tasks) * len(STRATEGIES + tuple(HOWS))
    for name, found in (one | two).items():
        task, case = name.split("/")
        same = one[f"{task}/bf16" if case == "bf16" else f"{task}/FULL_SHARD"]
        assert np.allclose(found["losses"], same["losses"], atol=2e-2 if case == "bf16" else 1e-5), name
        if case != "bf16":
            assert found["values"] == pytest.approx(same["values"], abs=0.2), name
    only = {"hows": {}, "tasks": {"classify": tasks["classify"]}, "place": str(tmp_path / "mixed jobs")}
    asked = arguments | only | {"how": how | {"mixup": 0.8}}
    mixed = [ranks.start("transfer", tmp_path / f"mixed {n}", n, strategies=STRATEGIES[:1], **asked) for n in (1, 2)]
    losses = [each["classify/FULL_SHARD"]["losses"] for each in mixed]
    assert np.allclose(*losses, atol=1e-5) and not np.allclose(losses[0], one["classify/FULL_SHARD"]["losses"])
    for task in tasks:
        fp32, bf16 = (one[f"{task}/{case}"]["losses"] for case in ("FULL_SHARD", "bf16"))
        assert np.allclose(fp32, bf16, atol=5e-2) and fp32 != bf16
