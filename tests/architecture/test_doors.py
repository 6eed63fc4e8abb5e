"""Each third party has one door, and some modules may not be named at all."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator

import pytest

from .sources import ROOT, Source, sources

# third party: the one package that may import it.
DOORS = {
    "mpi4py": "distgrad.comm.mpi",
    "cupy": "distgrad.backend.gpu",
    "cupyx": "distgrad.backend.gpu",
    "cupy_backends": "distgrad.backend.gpu",
    "numba": "distgrad.backend.fused",
    "llvmlite": "distgrad.backend.fused",
    "safetensors": "distgrad.checkpoint",
    "h5py": "distgrad.data.hdf5",
    "jax": "distgrad.bench",
    "torch": "distgrad.bench",
}
WITHOUT_NUMPY = ("distgrad.ops", "distgrad.nn", "distgrad.optim", "distgrad.distributed")
# They turn bytes into calls: a weights file or a peer could then run code here.
PICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
ENVIRONMENT = {"environ", "environb", "getenv", "putenv", "unsetenv"}
# Put together here so that this file is not among the finds.
MACHINE = re.compile("|".join(["/" + "work/", "/" + r"tmp/\w", "/" + r"root/\w", "/" + r"home/\w+/"]))
MACHINE_ALLOWED = re.compile("/" + "tmp/(distgrad|ompi)")


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def top_level_imports(source: Source) -> Iterator[tuple[str, int]]:
    yield from ((item.module.split(".")[0], item.line) for item in source.imports())


@pytest.mark.parametrize("party", DOORS)
def test_a_third_party_has_one_door(party: str) -> None:
    offenders = [source.at(line) for source in sources() if not inside(source.module, DOORS[party])
                 for name, line in top_level_imports(source) if name == party]
    assert not offenders, f"{party} may be imported only in {DOORS[party]}: {offenders}"


def test_upper_layers_cannot_name_numpy() -> None:
    offenders = [source.at(line) for source in sources()
                 if any(inside(source.module, package) for package in WITHOUT_NUMPY)
                 for name, line in top_level_imports(source) if name == "numpy"]
    assert not offenders, f"these take arrays and kernels from the backend, not from numpy: {offenders}"


def test_nothing_is_pickled() -> None:
    offenders = [source.at(line) for source in sources() for name, line in top_level_imports(source)
                 if name in PICKLING]
    offenders += [source.at(node.lineno) for source in sources() for node in ast.walk(source.tree)
                  if isinstance(node, ast.keyword) and node.arg == "allow_pickle"
                  and not (isinstance(node.value, ast.Constant) and node.value.value is False)]
    assert not offenders, f"no pickle in the package: {offenders}"


def test_the_environment_is_read_in_config_alone() -> None:
    offenders = []
    for source in sources():
        if source.module == "distgrad.config":
            continue
        for node in ast.walk(source.tree):
            by_attribute = (isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT
                            and isinstance(node.value, ast.Name) and node.value.id == "os")
            by_name = isinstance(node, ast.ImportFrom) and node.module == "os" \
                and any(alias.name in ENVIRONMENT for alias in node.names)
            if by_attribute or by_name:
                offenders.append(source.at(node.lineno))
    assert not offenders, f"read it through distgrad.config: {offenders}"


def test_no_file_names_the_machine_it_was_written_on() -> None:
    try:
        listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT,
                                capture_output=True, text=True, check=True, timeout=30).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    offenders = []
    for name in filter(None, listed):
        try:
            text = (ROOT / name).read_text()
        except (OSError, UnicodeDecodeError):
            continue
        offenders += [f"{name}:{number}: {line.strip()[:80]}" for number, line in enumerate(text.splitlines(), 1)
                      if MACHINE.search(MACHINE_ALLOWED.sub("", line))]
    assert not offenders, "paths of one machine:\n" + "\n".join(offenders)
