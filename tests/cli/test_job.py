"""`distgrad job`: what stands in the scripts, that nothing of the user's can break out, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distgrad.cli import job, main
from distgrad.cli.batch import SCHEDULERS

GOLDEN = Path(__file__).with_name("golden")
ROOT = Path(__file__).resolve().parents[2]
LAUNCH = {"slurm": "slurm.sbatch", "pbs": "pbs.sh", "lsf": "lsf.sh", "flux": "flux.sh"}
LIBRARY = "Open MPI v5.0.8, package: x"

Write = Callable[..., str]

# Every option once, and the shortest command.
FULL = ("--queue gpu --account climate --cores 16 --threads 4 --memory 64GB --gpus-per-node 4 --job-name big-run "
        "--log-directory logs --warning 300 --resume auto --python /opt/venv/bin/python").split()
FULL += ["--job-script-prologue", "module purge", "--job-script-prologue", "module load openmpi/5.0",
         "--job-extra-directives=--exclusive", "--job-directives-skip=no such directive"]
CASES = {
    "slurm": ["--nodes", "2", "--ranks-per-node", "4", *FULL],
    "slurm-short": ["--nodes", "1", "--ranks-per-node", "2", "--python", "python3"],
    "slurm-mpiexec": ["--nodes", "2", "--ranks-per-node", "2", "--python", "python3", "--launcher", "mpiexec",
                      "--no-requeue", "--warning", "0"],
    "pbs": ["--nodes", "2", "--ranks-per-node", "4", *FULL],
    "lsf": ["--nodes", "2", "--ranks-per-node", "4", *FULL],
    "flux": ["--nodes", "2", "--ranks-per-node", "4", *(word for word in FULL if word not in ("--memory", "64GB"))],
}


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Write:
    """Calls `distgrad job` in a folder with a train.py and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "library", lambda environment: LIBRARY)
    (tmp_path / "train.py").write_text("")

    def call(scheduler: str, *options: str, program: tuple[str, ...] = ("train.py", "--lr", "0.1"),
             walltime: str = "01:30:00", code: int = 0) -> str:
        found = main(["job", "--scheduler", scheduler, "--walltime", walltime, *options, "--", *program])
        out, err = capsys.readouterr()
        assert found == code, err
        return out if code == 0 else err

    return call


def check(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "-s", "bash", "-S", "warning", "-e", "SC1091", "-"], input=script,
                              capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, write: Write) -> None:
    found = write(case.split("-")[0], *CASES[case])
    check(found)
    assert found == (GOLDEN / f"{case}.sh").read_text()


def essence(script: str, mark: str) -> list[str]:
    """A script without empty lines and comments; directives stay."""
    return [line for line in script.splitlines()
            if line.strip() and (not line.lstrip().startswith("#") or line.startswith((mark, "#!")))]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_scripts_in_launch_are_its_output_with_comments(scheduler: str, write: Write) -> None:
    text = (ROOT / "launch" / LAUNCH[scheduler]).read_text()
    made = re.search(r"^# Made by: (distgrad job (?:.*\\\n# +)*.*)$", text, re.MULTILINE)
    assert made, "the script says which command made it"
    words = shlex.split(made[1].replace("\\\n#", " "))
    assert words[:4] == ["distgrad", "job", "--scheduler", scheduler]
    cut = words.index("--")
    walltime = words.index("--walltime")
    options = words[4:walltime] + words[walltime + 2:cut]
    found = write(scheduler, *options, walltime=words[walltime + 1], program=tuple(words[cut + 1:]))
    mark = SCHEDULERS[scheduler].mark
    assert essence(text, mark) == essence(found, mark)
    assert text.count("\n#") > found.count("\n#") + 3, "with comments"
    check(text)


HOSTILE = ["$(touch broken)", "`touch broken`", "'; touch broken; '", '"; touch broken; "', "a & touch broken",
           "a\n#SBATCH --x\ntouch broken", "a\r\n#BSUB -x", "it's", "\\", "\\'", "*", "~", "-n", "", " ", "\t", "!!",
           "é\u2028\x1b[0m"]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_no_argument_breaks_out_of_its_quotes(scheduler: str, write: Write, tmp_path: Path) -> None:
    """The script runs, with the launchers replaced by one that prints what it was given."""
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "show").write_text(f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open('given', 'w'))\n")
    for name in ("srun", "flux", "scontrol"):
        (bin / name).write_text("#!/bin/sh\n"
                                "for word; do shift; case $word in */show) exec \"$word\" \"$@\";; esac\ndone\n")
    for path in bin.iterdir():
        path.chmod(0o755)
    script = write(scheduler, "--nodes", "1", "--ranks-per-node", "1", "--python", str(bin / "show"),
                   program=("train.py", *HOSTILE))
    assert sum(line.startswith(SCHEDULERS[scheduler].mark) for line in script.splitlines()) == sum(
        line.startswith(SCHEDULERS[scheduler].mark) for line in
        write(scheduler, "--nodes", "1", "--ranks-per-node", "1", "--python", str(bin / "show")).splitlines())
    check(script)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, env={
        **os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "PBS_O_WORKDIR": str(tmp_path), "SLURM_JOB_ID": "1"})
    assert done.returncode == 0, done.stderr
    given = json.loads((tmp_path / "given").read_text())
    assert given[given.index("train.py") + 1:] == HOSTILE
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize(("options", "words"), [
    (["--nodes", "0"], "--nodes 0: must be at least 1"),
    (["--nodes", "-2"], "--nodes -2: must be at least 1"),
    (["--ranks-per-node", "0"], "--ranks-per-node 0"),
    (["--walltime", "90"], "write it as HH:MM:SS"),
    (["--walltime", "1:60:00"], "write it as HH:MM:SS"),
    (["--walltime", "00:00:00"], "write it as HH:MM:SS"),
    (["--walltime", "01:00:00\n#SBATCH -x"], "write it as HH:MM:SS"),
    (["--walltime", "00:03:00"], "no time before the warning"),
    (["--queue", "a b"], "--queue 'a b'"),
    (["--queue", "a\n#SBATCH --x"], "--queue"),
    (["--account=$(id)"], "--account"),
    (["--account=-x"], "--account"),
    (["--job-name", "a;b"], "--job-name"),
    (["--log-directory", "a b"], "--log-directory"),
    (["--memory", "lots"], "--memory 'lots'"),
    (["--memory", "0GB"], "--memory '0GB'"),
    (["--cores", "1", "--threads", "2"], "--cores 1: 2 ranks of 2 threads need 4"),
    (["--warning", "-1"], "--warning -1"),
    (["--mpi", "pmix --x"], "--mpi"),
    (["--mpi", "pmix", "--launcher", "mpiexec"], "--mpi is for ranks that srun"),
    (["--job-extra-directives=--a\n--b"], "--job-extra-directives"),
    (["--job-script-prologue", "a\nb"], "--job-script-prologue"),
])
def test_mistakes_are_named(options: list[str], words: str, write: Write) -> None:
    base = [] if "--nodes" in options else ["--nodes", "2"]
    base += [] if "--ranks-per-node" in options else ["--ranks-per-node", "2"]
    error = write("slurm", *base, *options, code=2)
    assert error.startswith("distgrad job: ") and words in error and error.count("\n") == 1


@pytest.mark.parametrize(("program", "words"), [
    ((), "which script"), (("-m",), "which script"), (("nowhere.py",), "no file nowhere.py"),
    (("--wall", "3"), "--wall is no option of distgrad job"),
])
def test_a_missing_script_is_named(program: tuple[str, ...], words: str, write: Write) -> None:
    assert words in write("slurm", "--nodes", "1", "--ranks-per-node", "1", program=program, code=2)


@pytest.mark.parametrize("scheduler", ["pbs", "lsf", "flux"])
def test_what_a_scheduler_does_not_have_is_refused(scheduler: str, write: Write) -> None:
    common = ["--nodes", "1", "--ranks-per-node", "1"]
    assert "--launcher srun is Slurm's" in write(scheduler, *common, "--launcher", "srun", code=2)
    if scheduler == "flux":
        assert "leave out --memory" in write(scheduler, *common, "--memory", "1GB", code=2)
    else:
        assert "--mpi is for ranks" in write(scheduler, *common, "--mpi", "pmix", code=2)


@pytest.mark.parametrize("words", [["--scheduler", "cron"], ["--scheduler", "slurm", "--nodes", "two"],
                                   ["--scheduler", "slurm", "--nodes", "2", "--no-such-option"]])
def test_unknown_words_are_argparses(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["job", *words, "--ranks-per-node", "1", "--walltime", "01:00:00", "--", "train.py"])
    assert ended.value.code == 2 and re.search("invalid|unrecognized arguments: --no-such", capsys.readouterr().err)


def test_directives_can_be_left_out_and_added(write: Write) -> None:
    common = ["--nodes", "1", "--ranks-per-node", "1", "--memory", "2GB"]
    found = write("slurm", *common, "--job-directives-skip=--mem", "--job-extra-directives=--qos=high")
    assert "--mem" not in found and "#SBATCH --qos=high\n" in found


@pytest.mark.parametrize(("memory", "megabytes"), [("16GB", 16384), ("16 GiB", 16384), ("1T", 1 << 20), ("512M", 512),
                                                   ("1000KB", 1), ("1", 1)])
def test_memory_in_units(memory: str, megabytes: int, write: Write) -> None:
    found = write("slurm", "--nodes", "1", "--ranks-per-node", "1", "--memory", memory)
    assert f"#SBATCH --mem={megabytes}M\n" in found


@pytest.mark.parametrize(("library", "line"), [
    ("MPICH Version: 4.3.0", "srun --ntasks=2 --nodes=1 --ntasks-per-node=2 --mpi=pmi2 "),
    ("MPI VERSION: CRAY MPICH version 8.1.28", "--mpi=cray_shasta "),
    ("Intel(R) MPI Library 2021.13", " -m distgrad run -n 2 "),
    ("", " -m distgrad run -n 2 "),
])
def test_slurm_starts_what_this_environment_has(library: str, line: str, write: Write,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "library", lambda environment: library)
    assert line in write("slurm", "--nodes", "1", "--ranks-per-node", "2")
    if not library:
        assert "which --mpi" in write("slurm", "--nodes", "1", "--ranks-per-node", "2", "--launcher", "srun", code=2)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_submit_hands_the_script_to_the_scheduler(scheduler: str, write: Write, monkeypatch: pytest.MonkeyPatch,
                                                  tmp_path: Path) -> None:
    common = ["--nodes", "1", "--ranks-per-node", "1", "--log-directory", "logs/here"]
    printed = write(scheduler, *common)
    assert not (tmp_path / "logs").exists()
    program = SCHEDULERS[scheduler].submit[0]
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"there is no {program} on PATH" in write(scheduler, *common, "--submit", code=2)
    (tmp_path / program).write_text("#!/bin/sh\necho \"$@\" > words\ncat > submitted\nexit 3\n")
    (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
    write(scheduler, *common, "--submit", code=3)
    assert (tmp_path / "submitted").read_text() == printed
    assert (tmp_path / "words").read_text().split() == list(SCHEDULERS[scheduler].submit[1:])
    assert (tmp_path / "logs" / "here").is_dir()


@pytest.mark.parametrize("number", ["USR2", "TERM"])
def test_the_script_passes_a_warning_on_and_waits(number: str, write: Write, tmp_path: Path) -> None:
    """The Slurm script with an srun of ours: a warning reaches it, and the job is put back in the queue."""
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "srun").write_text("#!/bin/bash\ntrap 'echo warned > warned; sleep 0.5; exit 0' USR2\necho > ready\n"
                              "for i in {1..200}; do sleep 0.1; done\nexit 9\n")
    (bin / "scontrol").write_text("#!/bin/sh\n[ \"$1\" = requeue ] && echo \"$2\" > requeued\nexit 0\n")
    for path in bin.iterdir():
        path.chmod(0o755)
    (tmp_path / "job.sh").write_text(write("slurm", "--nodes", "1", "--ranks-per-node", "1"))
    process = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env={
        **os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"})
    try:
        for _ in range(300):
            if (tmp_path / "ready").exists():
                break
            subprocess.run(["sleep", "0.1"], check=True)
        subprocess.run(["kill", "-s", number, str(process.pid)], check=True)
        assert process.wait(90) == 0
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "warned").exists()
    assert (tmp_path / "requeued").exists() == (number == "USR2"), "SIGTERM is also how a person cancels a job"


@pytest.mark.parametrize("scheduler", ["pbs", "lsf"])
def test_without_a_warning_of_the_schedulers_the_script_warns_itself(scheduler: str, write: Write,
                                                                     tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/bash\ntrap 'echo warned >> warned; exit 0' USR2\n"
                                     "for i in {1..200}; do sleep 0.1; done\nexit 9\n")
    (tmp_path / "python").chmod(0o755)
    text = write(scheduler, "--nodes", "1", "--ranks-per-node", "1", "--python", str(tmp_path / "python"), "--warning",
                 "58", walltime="00:01:00")
    done = subprocess.run(["bash", "-c", text], cwd=tmp_path, timeout=90,
                          env={**os.environ, "PBS_O_WORKDIR": str(tmp_path)})
    assert done.returncode == {"pbs": 0, "lsf": 75}[scheduler]
    assert (tmp_path / "warned").read_text() == "warned\n", "once"


@pytest.mark.parametrize("scheduler", ["pbs", "lsf"])
def test_a_job_that_ends_early_leaves_no_timer(scheduler: str, write: Write, tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    text = write(scheduler, "--nodes", "1", "--ranks-per-node", "1", "--python", str(tmp_path / "python"),
                 walltime="12:34:56")
    done = subprocess.run(["bash", "-c", text], cwd=tmp_path, timeout=90,
                          env={**os.environ, "PBS_O_WORKDIR": str(tmp_path)})
    assert done.returncode == 3
    left = f"sleep {12 * 3600 + 34 * 60 + 56 - 180}".replace(" ", "\0")
    for _ in range(50):
        found = [path for path in Path("/proc").glob("[0-9]*/cmdline") if left in readable(path)]
        if not found:
            break
        subprocess.run(["sleep", "0.1"], check=True)
    assert not found


def readable(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
