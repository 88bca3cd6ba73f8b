"""profiling/power.py on counters and sensors made up so that the answer is known."""

import json

import pytest
import torch

from geofm_lib.profiling import power


def counter(folder, name, microjoules, most=262_143_328_850):
    folder = folder / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")


def test_energy_of_all_packages_and_a_counter_that_begins_again(tmp_path):
    for name, joules in (("intel-rapl:0", 5_000_000), ("intel-rapl:1", 999_000_000), ("intel-rapl:0:0", 7)):
        counter(tmp_path, name, joules, most=999_999_999)
    (tmp_path / "intel-rapl").mkdir()
    before = power.counters(tmp_path)
    assert before.keys() == {"intel-rapl:0", "intel-rapl:1"}  # a part of a package is not counted again
    counter(tmp_path, "intel-rapl:0", 8_000_000, most=999_999_999)
    counter(tmp_path, "intel-rapl:1", 3_000_000, most=999_999_999)  # 1 J up to the end, then 3 J
    assert power.spent(before, power.counters(tmp_path)) == pytest.approx(3 + 4)
    assert power.spent({}, {}) is None
    assert power.counters(tmp_path / "nowhere") == {}
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("")
    assert power.counters(tmp_path).keys() == {"intel-rapl:0"}


def test_power_of_a_cpu_or_not_available(tmp_path):
    counter(tmp_path, "intel-rapl:0", 0)
    meter = power.Power(torch.device("cpu"), tmp_path)
    meter.sample()
    counter(tmp_path, "intel-rapl:0", 10**9)
    found = meter.mean()
    assert found["power_w"] > 100
    assert found["power_source"].startswith("RAPL")
    assert found["busy_percent"] > 0
    found = power.Power(torch.device("cpu"), tmp_path / "nowhere").mean()
    assert found["power_w"] is None
    assert found["power_source"] == power.NOTHING
    json.dumps(found)  # goes through the ranks' store


def test_power_of_a_gpu_with_a_sensor_and_without(monkeypatch):
    monkeypatch.setattr(torch.cuda, "power_draw", lambda: 250_000)
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 90)
    meter = power.Power(torch.device("cuda"))
    meter.sample()
    assert meter.mean() == {"power_w": 250.0, "busy_percent": 90.0, "power_source": "NVML"}

    def absent():
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "power_draw", absent)
    meter = power.Power(torch.device("cuda"))
    meter.sample()
    assert meter.mean() == {"power_w": None, "busy_percent": None, "power_source": power.NOTHING}
