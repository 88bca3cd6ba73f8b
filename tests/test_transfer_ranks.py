"""08 on several ranks: every strategy gives the losses and values of one process."""

import json

import numpy as np
import pytest

from tests.support import ranks
from tests.test_transfer import QUICK, place  # noqa: F401  a fixture

STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_1GPU", "DDP")


@pytest.mark.long
def test_every_strategy_is_one_process(place, tmp_path):  # noqa: F811
    how = QUICK | {"encoder": str(place / "run" / "encoder"), "seeds": 1, "epochs": 2, "frozen_share": 0.5}
    tasks = {"classify": str(place / "set"), "segment": str(place / "pixels")}
    arguments = {"how": how, "tasks": tasks, "place": str(tmp_path / "jobs")}
    one = ranks.start("transfer", tmp_path / "1", 1, strategies=["FULL_SHARD"], **arguments)
    two = ranks.start("transfer", tmp_path / "2", 2, strategies=STRATEGIES, **arguments)
    for name, found in two.items():
        same = one[f"{name.split('/')[0]}/FULL_SHARD"]
        assert np.allclose(found["losses"], same["losses"], atol=1e-5), name
        assert found["values"] == pytest.approx(same["values"], abs=0.2), name
    assert json.dumps(sorted(two)) and len(two) == 2 * len(STRATEGIES)
