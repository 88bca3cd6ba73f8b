"""A billion parameters on four CPU ranks: real steps, clipping, a sharded checkpoint, all within a memory bound."""

import threading
import time
from pathlib import Path

import psutil
import pytest

from geofm_lib.jobs import run_folder
from geofm_lib.runs.launch import launch
from geofm_lib.runs.watch import RunStopped
from geofm_lib.settings import PrepareSettings, PretrainSettings

GIB = 2**30


class Watch(threading.Thread):
    """Samples the ranks' memory: the highest resident size of one, and the highest sum of proportional sizes."""

    def __init__(self, folder: Path):
        super().__init__(daemon=True)
        self.folder, self.resident, self.proportional, self.over = str(folder), 0, 0, threading.Event()

    def run(self):
        while not self.over.wait(1.0):
            found = [p for p in psutil.process_iter(["cmdline"]) if self.folder in (p.info["cmdline"] or [])]
            together = 0
            for process in found:
                try:
                    memory = process.memory_full_info()
                except psutil.Error:
                    continue
                self.resident, together = max(self.resident, memory.rss), together + memory.pss
            self.proportional = max(self.proportional, together)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_vit_1b_on_four_ranks(tmp_path):
    if psutil.virtual_memory().available < 18 * GIB:
        pytest.skip("needs 18 GiB of free memory")
    data = launch(PrepareSettings(images_per_class=2, scene_size=224, run_dir=str(tmp_path / "data")))
    settings = PretrainSettings(
        data=str(data.folder),
        model="ViT-1B",
        image_size=224,
        epochs=1,
        warmup_epochs=0.5,
        global_batch=4,
        ranks=4,
        strategy="FULL_SHARD",
        precision="bf16",
        activation_checkpointing=True,
        log_every=1,
        checkpoint_every=2,
        run_dir=str(tmp_path / "run"),
    )
    watch = Watch(tmp_path / "run")
    watch.start()
    stopper = threading.Thread(target=_stop_after, args=(tmp_path / "run", 2), daemon=True)
    stopper.start()
    with pytest.raises(RunStopped, match="saved at step [23] of 4"):
        launch(settings)
    stopped = time.time()
    run = launch(settings)
    watch.over.set()
    metrics = run.metrics
    assert 1 <= (metrics["time"] > stopped).sum() <= 2  # the rest of the four: it went on from the sharded checkpoint
    parameters = run.summary["parameters"]
    assert parameters == pytest.approx(0.934e9, rel=1e-3)
    assert list(metrics["step"]) == [1, 2, 3, 4]
    assert metrics["loss"].iloc[-1] < metrics["loss"].iloc[0]
    assert (metrics["grad_norm"] > 1.0).any()  # so that clipping at 1 did something
    own = max(watch.resident, run.ranks["peak_memory_gib"].max() * GIB)
    print(f"{parameters} parameters; highest rank {own / GIB:.2f} GiB, all together {watch.proportional / GIB:.2f} GiB")
    assert own <= 4 * parameters + 2.25 * GIB
    assert 0 < watch.proportional <= 22 * GIB


def _stop_after(folder: Path, steps: int) -> None:
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < steps:
        time.sleep(0.5)
    run_folder.request(folder, run_folder.STOP)
