"""The training script end to end on a small real set, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import compare
import pytest
import quickly
import threads
import time_to_accuracy
from in_process import call

from sparse_jax.commands.xmc import train

pytestmark = pytest.mark.usefixtures("lean_compiles")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train_xmc.py"
FILES = [str(ROOT / "tests" / "fixtures" / f"xmc_tiny_{part}.txt") for part in ("train", "test")]
SMALL = ["--hidden", "32", "--active", "256", "--batch-size", "64", "--tables", "8", "--bits", "5"]
KEYS = """p@1 p@3 p@5 psp@1 train_seconds compile_seconds examples_per_second steps active_fraction
madds_per_step dense_madds_per_step madds_saved peak_rss_bytes final_loss weights_sha256 seed
strategy""".split()


def run(*options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *FILES, *SMALL, *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | (env or {})
    )


@pytest.mark.slow
def test_trains_and_reports(tmp_path, capsys):
    options = [*FILES, *SMALL, "--epochs", "12", "--lr", "1e-2", "--seed", "1"]
    options += ["--json", f"{tmp_path}/a.json", "--plot", f"{tmp_path}/a.png"]
    status, out, err = call(train, capsys, *options)
    assert status == 0, err
    results = json.loads((tmp_path / "a.json").read_text())
    assert set(KEYS) <= set(results)
    assert results["steps"] == 12 * 32
    assert results["dropped_labels"] == 0
    # The most frequent label alone has P@1 .06 on this set.
    assert results["p@1"] > 0.3
    assert json.loads(out.splitlines()[-1]) == results
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_preset_beats_a_network_alone_and_reports_its_size(tmp_path, capsys):
    options = [*FILES, "--preset", "fast", "--json", f"{tmp_path}/p", "--plot", f"{tmp_path}/p.png"]
    status, _, err = call(train, capsys, *options)
    assert status == 0, err
    results = json.loads((tmp_path / "p").read_text())
    assert {"p@1", "psp@5", "train_seconds", "peak_rss_bytes", "predict_us"} <= set(results)
    assert results["trees"] > 0 and not results["networks"]
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert results["p@1"] > 0.4
    assert results["model_bytes"] > 8 * results["wide_pairs"]


@pytest.mark.slow
def test_compares_ours_with_the_peers_that_are_there(tmp_path, capsys):
    options = [*FILES, "--ways", "network, uniform; neighbours; Parabel"]
    options += ["--output", f"{tmp_path}/c.json", "--plot", f"{tmp_path}/c.png"]
    status, _, err = call(compare, capsys, *options)
    assert status == 0, err
    table = json.loads((tmp_path / "c.json").read_text())
    rows = {row["way"]: row["figures"] for row in table["rows"]}
    assert {"network, uniform", "neighbours"} <= set(rows)  # jax needs scipy: it is there
    assert rows["neighbours"]["p@1"] > 0.3 and not table["missing"]
    assert ("Parabel" in rows) != any("Parabel" in line for line in table["failures"])
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_times_ours_until_it_equals_dense(tmp_path, capsys):
    options = [*FILES, "--seeds", "1", "--evaluations", "3", "--dense", "--hidden 16 --epochs 1"]
    options += ["--sampled", "--hidden 32 --epochs 9 --lr 1e-2"]
    options += ["--ways", "uniform,wide,fast", "--max-points", "1900"]
    options += ["--json", f"{tmp_path}/t.json", "--plot", f"{tmp_path}/t.png"]
    status, _, err = call(time_to_accuracy, capsys, *options)
    assert status == 0, err
    rows = {row["way"]: row for row in json.loads((tmp_path / "t.json").read_text())["rows"]}
    assert list(rows) == ["dense", "uniform", "wide", "fast"]
    assert rows["dense"]["ratio"] == 1 and rows["uniform"]["p@1"] > rows["dense"]["p@1"]
    for row in rows.values():
        seconds = [s for s, _ in row["curve"]]
        assert seconds == sorted(seconds) and row["seconds"] == seconds[-1]
        assert row["p@1"] == row["curve"][-1][1] > 0
        ratio = rows["dense"]["reached"] / row["reached"]
        assert row["ratio"] == pytest.approx(ratio)
    assert len(rows["fast"]["curve"]) == 1 and len(rows["wide"]["curve"]) >= 3
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_one_thread_or_two_and_a_resumed_run_give_the_same_weights(tmp_path):
    out, checkpoint = f"{tmp_path}/r.json", f"{tmp_path}/checkpoint"
    whole = run("--epochs", "2", "--rehash", "10", "--json", out, env=threads.environment(1))
    assert whole.returncode == 0, whole.stderr
    expected = json.loads(Path(out).read_text())["weights_sha256"]

    options = ["--epochs", "2", "--rehash", "10", "--checkpoint", checkpoint, "--save-every", "10"]
    first = run(*options, "--max-seconds", "0.03", env=threads.environment(2))
    assert first.returncode == 0, first.stderr
    rest = run(*options, "--resume", "--json", out, env=threads.environment(2))
    assert rest.returncode == 0, rest.stderr
    assert "resumed at step" in rest.stdout
    assert json.loads(Path(out).read_text())["weights_sha256"] == expected


def interrupted(command: list[str], folder: Path, saved: str) -> str:
    """What a run tells that Ctrl-C ends once there is such a file in the folder."""
    environment = os.environ | quickly.environment(optimized=True)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as child:
        deadline = time.monotonic() + 200
        while not list(folder.glob(saved)) and time.monotonic() < deadline:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=100)
    assert child.returncode == 0, stderr.decode()
    return stdout.decode()


@pytest.mark.slow
def test_ctrl_c_saves_and_ends_cleanly(tmp_path):
    command = [sys.executable, str(SCRIPT), *FILES, *SMALL, "--epochs", "2000"]
    command += ["--checkpoint", f"{tmp_path}/c", "--save-every", "20"]
    assert "interrupted; what is done is saved in" in interrupted(command, tmp_path, "c/*_step_*")


@pytest.mark.slow
def test_a_preset_that_was_stopped_goes_on_to_the_same_weights(tmp_path, capsys):
    options = [*FILES, "--preset", "accurate"]
    command = [sys.executable, str(SCRIPT), *options]
    folder, out = tmp_path / "c", f"{tmp_path}/r.json"

    def weights(*more: str) -> tuple[str, str]:
        status, told, err = call(train, capsys, *options, *more, "--json", out)
        assert status == 0, err
        results = json.loads(Path(out).read_text())
        assert set(KEYS) <= set(results) or not results["trees"]
        return results["weights_sha256"], told

    whole, _ = weights()
    saving = ["--checkpoint", str(folder), "--save-every", "50"]
    told = interrupted([*command, *saving], folder, "network0/*_step_*")
    assert "interrupted; what is done is saved in" in told and "P@1" in told
    again, told = weights(*saving, "--resume")
    assert "wide: resumed at epoch" in told and "network: resumed at step" in told
    assert again == whole

    _, told = weights("--max-seconds", "1e-3")
    assert "stopped after 0.001 s" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--active", "8"], "active = 8: must be at least 173"),
        (["--lr", "0"], "--lr 0.0: must be above 0"),
        (["--resume"], "--resume needs --checkpoint"),
        (["--bits", "0"], "--bits 0: must be at least 1"),
    ],
)
def test_errors_name_the_option_and_the_cure(capsys, options, message):
    status, _, err = call(train, capsys, *FILES, *SMALL, *options)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_ctrl_c_before_training_ends_in_one_line(monkeypatch, capsys, tmp_path):
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "load", stop)
    assert train.main([*map(str, FILES), "--checkpoint", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
