"""What work took: time of all threads, and the counters of energy, which go round."""

from __future__ import annotations

import time

import pytest

from sparse_jax.runtime.machine import Meter


def counters(folder, **microjoules):
    for name, value in microjoules.items():
        place = folder / f"intel-rapl:{name.removeprefix('p').replace('_', ':')}"
        place.mkdir(exist_ok=True)
        (place / "energy_uj").write_text(f"{value}\n")
        (place / "max_energy_range_uj").write_text("9999999\n")


def test_energy_is_that_of_whole_processors_and_survives_a_counter_that_goes_round(tmp_path):
    counters(tmp_path, p0=9_000_000, p1=500_000, p0_0=1_000_000)
    meter = Meter(tmp_path)
    counters(tmp_path, p0=2_000_000, p1=700_000, p0_0=5_000_000)  # the last is a part of p0
    assert meter.spent().joules == pytest.approx(3.0 + 0.2)


def test_what_the_system_does_not_tell_is_none(tmp_path):
    assert Meter(tmp_path / "nowhere").spent().joules is None
    counters(tmp_path, p0=5)
    meter = Meter(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()  # as where it may not be read
    assert meter.spent().joules is None


def test_time_is_that_since_the_meter_was_made():
    meter = Meter()
    before = time.process_time()
    while time.process_time() - before < 0.05:
        pass
    spent = meter.spent()
    assert 0.03 <= spent.cpu_seconds < 5 and spent.seconds >= 0.05
