"""The steps of the image, taken on a plain Debian root, and the cluster of containers run there for real."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distgrad.config import child_environment

ROOT = Path(__file__).parents[2]
IMAGE = Path(__file__).with_name("image.sh")
MIRROR = "http://deb.debian.org/debian"
DEBIAN = "bookworm"  # as in launch/compose/Dockerfile

# It downloads a Debian and installs into it: minutes, and a gigabyte.
pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


def pip_settings() -> dict[str, str]:
    """This machine's settings of pip as variables, and the folders that they name."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60)
    found = dict(re.findall(r"^(?:global|install|:env:|env)[.:]+([a-z-]+)='(.*)'$", said.stdout, re.MULTILINE))
    found.pop("cert", None)  # the image has its own list, with this machine's additions
    values = " ".join(found.values()).replace("file://", "").split()
    folders = set()
    for path in (Path(word) for word in values if word.startswith("/")):
        if path.exists():  # an index leads to files beside it
            folders.add(str(path.parent if path.name == "simple" or path.is_file() else path))
    return {**{f"PIP_{name.upper().replace('-', '_')}": value for name, value in found.items()},
            "PIP_FOLDERS": " ".join(sorted(folders))}


def image(root: Path, part: str, *spaces: str, limit: float) -> str:
    environment = {name: value for name, value in child_environment().items() if not name.startswith("PIP_")}
    alone = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", *spaces]
    done = subprocess.run([*alone, IMAGE, root, ROOT, part], env={**environment, **pip_settings()},
                          capture_output=True, text=True, timeout=limit, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def test_the_image_is_built_and_its_cluster_runs(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a Debian root and namespaces")
    for program in ("debootstrap", "unshare", "ip", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    root = tmp_path / "root"
    made = subprocess.run(["debootstrap", "--variant=minbase", DEBIAN, root, MIRROR], capture_output=True, text=True,
                          timeout=600, stdin=subprocess.DEVNULL)
    if made.returncode:
        pytest.skip(f"debootstrap cannot make a Debian here: {made.stdout[-300:]}")
    try:
        assert f"FROM debian:{DEBIAN}-slim" in (ROOT / "launch" / "compose" / "Dockerfile").read_text()
        image(root, "build", limit=600)
        assert not list((root / "keys").rglob("*_ed25519*")) and not list((root / "etc" / "ssh").glob("ssh_host_*"))
        shadow = dict(line.split(":")[:2] for line in (root / "etc" / "shadow").read_text().splitlines())
        assert {"distgrad", "root"} <= set(shadow) and all(word in ("*", "!", "!*") for word in shadow.values())
        told = image(root, "run", "--net", limit=200)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    assert "inside: 10001 worker1 healthy" in told
    assert "password: Permission denied (publickey)." in told and "root: Permission denied (publickey)." in told
    assert "head: 1 workers with 2 ranks each" in told and "head ended with 0" in told
    assert "2 ranks    are one world" in told, told
