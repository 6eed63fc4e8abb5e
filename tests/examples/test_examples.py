"""The examples as users start them: alone, on several ranks and simulated ones; and with what they cannot use."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LM = ROOT / "examples" / "char_lm.py"
DIGITS = ROOT / "examples" / "digits_cnn.py"
SMALL = ("--hidden", "16", "--batch", "8", "--seq-len", "16")
NEEDS_MPI = pytest.mark.skipif(not (Path(sys.executable).with_name("mpiexec").exists() or shutil.which("mpiexec")),
                               reason="needs mpiexec")
STARTS = {"alone": (sys.executable,),
          "processes": (sys.executable, "-m", "distgrad", "run", "-n", "2", "--timeout", "100"),
          "simulated": (sys.executable, "-m", "distgrad", "run", "-n", "2", "--simulate", "--timeout", "100")}
EVERY_WAY = pytest.mark.parametrize("start", [
    "alone", pytest.param("processes", marks=NEEDS_MPI), "simulated"])


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of 20,000 characters with something to learn."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{i % 97} bottles of beer, größer als {i % 13};\n" for i in range(600)))
    return path


def environment(folder: Path, **extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", **extra}


def run(start: str, script: Path, *options: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*STARTS[start], str(script), *map(str, options)], cwd=folder, env=environment(folder),
                          text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=110)


def losses(path: Path) -> list[float]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def validation(done: subprocess.CompletedProcess[str]) -> float:
    return float(re.search(r"validation loss: ([\d.]+) nats per character", done.stdout)[1])


# -- the language model

@EVERY_WAY
def test_language_model(start: str, text: Path, tmp_path: Path) -> None:
    done = run(start, LM, "--text", text, *SMALL, "--steps", 12, "--every", 5, "--lr", 0.02, "--losses", "l.json",
               "--save", "w", "--plot", "new/curve.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("step ")] \
        == ["1/12", "5/12", "10/12", "12/12"], "plain lines where there is no terminal, from one rank"
    assert "\r" not in done.stdout and "tokens/s" in done.stdout
    assert (tmp_path / "new" / "curve.png").read_bytes().startswith(b"\x89PNG") and "new/curve.png" in done.stdout
    assert done.stdout.count("validation loss") == 1 and 1 < validation(done) < 5
    found = losses(tmp_path / "l.json")
    assert len(found) == 12 and found[-1] < found[0] - 0.3, "it learns"

    again = run("alone", LM, "--text", text, *SMALL, "--steps", 1, "--load", "w", "--lr", "1e-9", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert validation(again) == pytest.approx(validation(done), rel=1e-3), "the saved weights are the trained ones"


def test_losses_do_not_depend_on_the_number_of_ranks(text: Path, tmp_path: Path) -> None:
    found = {}
    for name, ranks in (("alone", None), ("two", 2), ("four", 4)):
        start = [sys.executable] if ranks is None else [*STARTS["simulated"][:5], str(ranks), "--simulate"]
        done = subprocess.run([*start, str(LM), "--text", str(text), *SMALL, "--steps", "20", "--losses", name],
                              cwd=tmp_path, env=environment(tmp_path), text=True, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=100)
        assert done.returncode == 0, done.stderr
        found[name] = [*losses(tmp_path / name), validation(done)]
    assert found["two"] == pytest.approx(found["alone"], rel=1e-4)
    assert found["four"] == pytest.approx(found["alone"], rel=1e-4)


@EVERY_WAY
def test_training_goes_on_where_it_was_stopped(start: str, text: Path, tmp_path: Path) -> None:
    """In mid-epoch; with the same ranks to the same bits, and after steps on another number to the same losses."""
    options = "--text", text, *SMALL, "--save-every", 4

    def train(way: str, steps: int, name: str, folder: str | None = None) -> list[float]:
        more = () if folder is None else ("--checkpoint", folder)
        done = run(way, LM, *options, "--steps", steps, "--losses", name, *more, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return [*losses(tmp_path / name), validation(done)]

    whole = train(start, 15, "whole")
    train(start, 6, "first", "c")
    assert train(start, 15, "rest", "c") == whole
    kept = sorted(path.name for path in (tmp_path / "c").glob("0*"))
    assert kept == ["000003-step-8", "000004-step-12", "000005-step-15"]
    if start == "alone":
        train("simulated", 6, "other", "d")
        assert train("alone", 15, "then", "d") == pytest.approx(whole, rel=1e-4)
        again = run(start, LM, *options, "--steps", 2, "--checkpoint", "c", "--resume", "never", folder=tmp_path)
        assert again.returncode == 0 and "step 1/2 " in again.stdout


@pytest.mark.parametrize("start", ["alone", "simulated"])
def test_on_another_device(start: str, text: Path, tmp_path: Path) -> None:
    found = []
    for device in ("cpu", "strict"):
        done = run(start, LM, "--text", text, *SMALL, "--steps", 6, "--device", device, "--losses", device,
                   "--checkpoint", f"runs/{device}", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        found.append([*losses(tmp_path / device), validation(done)])
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_the_standard_library_is_the_default_text(tmp_path: Path) -> None:
    done = run("alone", LM, *SMALL, "--steps", 2, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split(" characters")[0].replace(",", "")) > 1_000_000
    assert (tmp_path / "runs" / "char_lm.png").exists()


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_a_terminal_shows_a_moving_line(with_tqdm: bool, text: Path, tmp_path: Path) -> None:
    if with_tqdm:
        pytest.importorskip("tqdm")
    else:
        (tmp_path / "tqdm.py").write_text("raise ImportError('not installed')")
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    process = subprocess.Popen([sys.executable, str(LM), "--text", str(text), *SMALL, "--steps", "5"], cwd=tmp_path,
                               env=environment(tmp_path), stdin=subprocess.DEVNULL, stdout=end, stderr=end)
    os.close(end)
    shown = b""
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
    except OSError:  # Linux says so when the other side is closed
        pass
    finally:
        os.close(terminal)
        code = process.wait(60)
    moving = [part for part in shown.decode().split("\r") if "5/5" in part]
    assert code == 0 and moving and "loss" in moving[-1] and "tokens/s" in moving[-1], shown.decode()


def test_without_matplotlib(text: Path, tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not installed')")
    done = run("alone", LM, "--text", text, *SMALL, "--steps", 1, folder=tmp_path)
    assert done.returncode == 0 and 'pip install "distgrad[examples]"' in done.stdout
    assert not list((tmp_path / "runs").iterdir())


def refused(done: subprocess.CompletedProcess[str], message: str, script: Path) -> None:
    """Exit code 2 and one line that says why; what the launcher itself prints does not count."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"{script.stem}: ")]
    assert len(lines) == 1 and re.search(message, lines[0]), done.stderr
    assert "Traceback" not in done.stderr and "step 1/" not in done.stdout


@EVERY_WAY
def test_bad_bytes(start: str, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"gr\xfc\xdfe " * 2000)
    refused(run(start, LM, "--text", "latin", folder=tmp_path), "latin is not UTF-8: byte 0xfc at offset 2", LM)
    if start == "alone":
        done = run(start, LM, "--text", "latin", "--errors", "replace", *SMALL, "--steps", 1, folder=tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options, message", [
    (("--text", "nothing"), "nothing"),
    (("--text", "."), "directory"),
    (("--text", "empty"), "0 characters"),
    (("--text", "short"), "100 characters; --batch 8 and --seq-len 16 need"),
    (("--text", "text.txt", "--steps", "0"), "--steps: invalid positive int value: '0'"),
    (("--text", "text.txt", "--lr", "fast"), "--lr: invalid positive float value"),
    (("--text", "text.txt", "--surprise"), "--surprise"),
    (("--text", "text.txt", "--load", "nothing"), "nothing"),
    (("--text", "text.txt", "--load", "text.txt"), "text.txt: cut off, or no safetensors file"),
    (("--text", "text.txt", "--save", "short/w"), "short"),
    (("--text", "text.txt", "--save", "."), "folder"),
    (("--text", "text.txt", "--device", "abacus"), "--device abacus: unknown device type 'abacus'"),
    (("--text", "text.txt", "--checkpoint", "short"), "Not a directory.*short"),
])
def test_bad_input(options: tuple[str, ...], message: str, text: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(b"x" * 100)
    refused(run("alone", LM, *SMALL, *options, folder=tmp_path), message, LM)


@pytest.mark.parametrize("start", ["simulated", pytest.param("processes", marks=NEEDS_MPI)])
def test_batches_that_cannot_be_divided(start: str, text: Path, tmp_path: Path) -> None:
    refused(run(start, LM, "--text", text, "--batch", 7, folder=tmp_path), "--batch 7 .* 2 ranks", LM)
    refused(run(start, LM, "--text", "nothing", folder=tmp_path), "nothing", LM)


# -- the digits

@EVERY_WAY
def test_digits(start: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    done = run(start, DIGITS, "--steps", 4, "--save", "w", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1 and (tmp_path / "runs" / "digits_cnn.png").exists()
    assert (tmp_path / "w").exists()


def test_digits_on_another_device(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    done = run("simulated", DIGITS, "--steps", 4, "--device", "strict", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1


@pytest.mark.slow
def test_digits_are_learnt(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    done = run("simulated", DIGITS, "--every", 100, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"test accuracy: ([\d.]+)%", done.stdout)[1]) >= 97, done.stdout


def test_digits_refuse(tmp_path: Path) -> None:
    refused(run("simulated", DIGITS, "--batch", 65, folder=tmp_path), "--batch 65", DIGITS)
    refused(run("alone", DIGITS, "--batch", 5000, folder=tmp_path), "more than the", DIGITS)
    (tmp_path / "sklearn.py").write_text("raise ImportError('not installed')")
    refused(run("alone", DIGITS, folder=tmp_path), r'scikit-learn: pip install "distgrad\[examples\]"', DIGITS)
