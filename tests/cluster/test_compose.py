"""The cluster of containers: nothing in its configuration is root, open or secret, and its parts do what they say."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="needs pyyaml, of the extra `test`")

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "launch" / "compose"
SCRIPTS = ("install", "make-keys", "worker", "head", "healthy")
PRIVATE = re.compile("BEGIN [A-Z ]*PRIVATE" + " KEY")


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def services(config: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(config["services"].items())


def test_the_parts(config: dict[str, Any]) -> None:
    assert set(config["services"]) == {"keys", "worker", "head"}
    for name, service in services(config):
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert [(COMPOSE / word).is_file() for word in service["command"]] == [True], name
        for volume in service["volumes"]:
            assert volume.split(":")[0] in config["volumes"], f"{name}: {volume} is a folder of the host"
    assert config["services"]["worker"]["depends_on"]["keys"]["condition"] == "service_completed_successfully"
    assert config["services"]["head"]["depends_on"]["worker"]["condition"] == "service_healthy"
    assert config["services"]["worker"]["deploy"]["replicas"] >= 2


def test_no_service_is_root_or_can_become_it(config: dict[str, Any]) -> None:
    for name, service in services(config):
        user, group = service["user"].split(":")
        assert int(user) > 0 and int(group) > 0, name
        assert service["cap_drop"] == ["ALL"] and "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True and service["init"] is True, name
        assert not {"privileged", "devices", "pid", "ipc", "userns_mode", "cgroup_parent"} & set(service), name


def test_nothing_is_published_and_the_network_has_no_way_out(config: dict[str, Any]) -> None:
    for name, service in services(config):
        assert not {"ports", "expose", "extra_hosts"} & set(service), name
        assert service.get("network_mode", "none") == "none", name
        assert service.get("networks", ["cluster"]) == ["cluster"], name
    assert config["services"]["keys"]["network_mode"] == "none"
    assert config["networks"] == {"cluster": {"internal": True}}


def test_each_side_has_its_own_private_key_only(config: dict[str, Any]) -> None:
    volumes = {name: set(service["volumes"]) for name, service in services(config)}
    assert volumes["keys"] == {"client-keys:/keys/client", "host-keys:/keys/host"}
    assert volumes["head"] == {"client-keys:/keys/client:ro", "results:/results"}
    assert volumes["worker"] == {"host-keys:/keys/host:ro", "results:/results"}
    assert not {"secrets", "configs"} & set(config)


def test_memory_and_health(config: dict[str, Any]) -> None:
    for name in ("head", "worker"):
        service = config["services"][name]
        assert service["shm_size"] == "1gb" and service["healthcheck"]["test"] == ["CMD", "healthy"]


def test_no_password_and_no_key_in_any_file(config: dict[str, Any]) -> None:
    for name, service in services(config):
        for variable in service.get("environment", {}):
            assert not re.search("PASS|SECRET|TOKEN|KEY", variable), f"{name}: {variable}"
    for path in [ROOT / "docker-compose.yml", ROOT / "launch" / "apptainer.def", *COMPOSE.iterdir()]:
        text = path.read_text()
        assert not PRIVATE.search(text) and "chpasswd" not in text, path
    assert not [path for path in COMPOSE.iterdir() if path.suffix in (".pem", ".key", ".pub") or path.name[:3] == "id_"]


def test_the_image_has_no_root_and_no_key() -> None:
    lines = (COMPOSE / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    assert [line[1] for line in words if line[0] == "USER"] == ["10001:10001"]
    assert {line[0] for line in words} <= {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "CMD"}, "no EXPOSE, no ADD"
    assert words.index(["USER", "10001:10001"]) > max(at for at, line in enumerate(words) if line[0] == "RUN")
    for line in words:
        for source in line[1:-1] if line[0] == "COPY" else ():
            assert (ROOT / source).exists(), source
    assert "rm -f /etc/ssh/ssh_host_*" in (COMPOSE / "install").read_text()
    ignored = (COMPOSE / "Dockerfile.dockerignore").read_text().split()
    assert "*" in ignored and "**/id_*" in ignored


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_shell_parts_are_right(name: str) -> None:
    path = COMPOSE / name
    assert os.access(path, os.X_OK) and path.read_text().startswith("#!/bin/sh\n")
    checks = [["sh", "-n"], ["bash", "-n"]] + ([["shellcheck", "-s", "sh"]] if shutil.which("shellcheck") else [])
    for check in checks:
        done = subprocess.run([*check, path], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("mpi", ["openmpi", "mpich", "none"])
def test_the_shell_part_of_the_apptainer_image(mpi: str) -> None:
    text = (ROOT / "launch" / "apptainer.def").read_text()
    post = text.split("%post\n")[1].split("%environment")[0].replace("{{ MPI }}", mpi).replace("{{ GPU }}", "cuda12")
    shellcheck = [["shellcheck", "-s", "sh", "-e", "SC2194", "-"]] if shutil.which("shellcheck") else []
    checks = [["bash", "-n"], *shellcheck]
    for check in checks:
        done = subprocess.run(check, input=post, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    choice = post[post.index("extras="):post.index("python3 -m venv")]
    done = subprocess.run(["sh", "-euc", choice + 'echo "$extras"'], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "fast,examples," + {"none": ""}.get(mpi, mpi + ",") + "cuda12"
    for section in ("%files", "%environment", "%runscript", "%arguments"):
        assert f"\n{section}\n" in text
    for source in re.search(r"%files\n((?:    .*\n)+)", text)[1].splitlines():
        assert (ROOT / source.split()[0]).exists(), source


def made(folder: Path) -> tuple[Path, Path]:
    """Run make-keys; the head's folder and the workers'."""
    client, host = folder / "client", folder / "host"
    client.mkdir(exist_ok=True)
    host.mkdir(exist_ok=True)
    done = subprocess.run([COMPOSE / "make-keys"], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "CLIENT_KEYS": str(client), "HOST_KEYS": str(host)})
    assert done.returncode == 0, done.stderr
    return client, host


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen, of openssh-client")
    return made(tmp_path)


def test_keys_are_made_once(keys: tuple[Path, Path], tmp_path: Path) -> None:
    client, host = keys
    before = {path: path.read_bytes() for folder in keys for path in folder.iterdir()}
    assert {path.name for path in client.iterdir()} == {"id_ed25519", "id_ed25519.pub", "known_hosts"}
    assert {path.name for path in host.iterdir()} == {"ssh_host_ed25519", "ssh_host_ed25519.pub", "authorized_keys"}
    for path in before:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    private = [path for path, text in before.items() if PRIVATE.search(text.decode())]
    assert sorted(path.name for path in private) == ["id_ed25519", "ssh_host_ed25519"]
    made(tmp_path)
    assert before == {path: path.read_bytes() for folder in keys for path in folder.iterdir()}, "a restart keeps them"


def test_half_made_keys_are_made_anew(keys: tuple[Path, Path], tmp_path: Path) -> None:
    client, host = keys
    old = (client / "id_ed25519").read_bytes()
    (host / "authorized_keys").write_text("")
    made(tmp_path)
    assert (client / "id_ed25519").read_bytes() != old and (host / "authorized_keys").read_text()


def test_each_side_knows_the_other_beforehand(keys: tuple[Path, Path]) -> None:
    client, host = keys
    public = (host / "ssh_host_ed25519.pub").read_text().split()[:2]
    assert (client / "known_hosts").read_text().split() == ["[*]:2222", *public]
    mine = (client / "id_ed25519.pub").read_text().split()[:2]
    assert (host / "authorized_keys").read_text().split() == ["restrict", *mine]
    found = subprocess.run(["ssh-keygen", "-l", "-F", "[10.0.0.9]:2222", "-f", client / "known_hosts"],
                           capture_output=True, text=True, timeout=30)
    assert "ED25519" in found.stdout, "any address, at this port"


def test_the_server_takes_the_heads_key_and_nothing_else(keys: tuple[Path, Path], tmp_path: Path) -> None:
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if sshd is None:
        pytest.skip("needs sshd, of openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where root's sshd, which only checks its settings here, wants to be
    config = tmp_path / "sshd_config"
    config.write_text((COMPOSE / "sshd_config").read_text().replace("/keys/host", str(keys[1])))
    done = subprocess.run([sshd, "-T", "-f", config], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    settings = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    for name, value in {"port": "2222", "passwordauthentication": "no", "kbdinteractiveauthentication": "no",
                        "permitrootlogin": "no", "permitemptypasswords": "no", "pubkeyauthentication": "yes",
                        "authenticationmethods": "publickey", "usepam": "no", "strictmodes": "yes",
                        "allowtcpforwarding": "no", "x11forwarding": "no", "allowagentforwarding": "no",
                        "permittunnel": "no", "permittty": "no", "allowusers": "distgrad",
                        "hostbasedauthentication": "no", "permituserenvironment": "no",
                        "hostkey": str(keys[1] / "ssh_host_ed25519")}.items():
        assert settings[name] == value, name
    assert "subsystem" not in settings, "no sftp"


def test_the_client_asks_nobody_and_trusts_no_stranger() -> None:
    if shutil.which("ssh") is None:
        pytest.skip("needs ssh, of openssh-client")
    done = subprocess.run(["ssh", "-G", "-F", COMPOSE / "ssh_config", "10.0.0.9"], capture_output=True, text=True,
                          timeout=30)
    settings = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    for name, values in {"port": ["2222"], "user": ["distgrad"], "stricthostkeychecking": ["true", "yes"],
                         "batchmode": ["yes"], "passwordauthentication": ["no"], "forwardagent": ["no"],
                         "identityfile": ["/keys/client/id_ed25519"],
                         "userknownhostsfile": ["/keys/client/known_hosts"]}.items():
        assert settings[name] in values, name


@pytest.mark.parametrize(("variables", "words"), [
    ({"RANKS": "two", "SCRIPT": "x.py"}, "RANKS=two is no number"), ({"RANKS": "0", "SCRIPT": "x.py"}, "RANKS=0"),
    ({"RANKS": "1; id", "SCRIPT": "x.py"}, "is no number"), ({"RANKS": "2"}, "SCRIPT says what the ranks run"),
    ({"RANKS": "2", "SCRIPT": "x.py"}, "there is no worker"),
])
def test_the_head_refuses_what_it_cannot_do(variables: dict[str, str], words: str, tmp_path: Path) -> None:
    (tmp_path / "getent").write_text("#!/bin/sh\nexit 2\n")
    (tmp_path / "getent").chmod(0o755)
    done = subprocess.run([COMPOSE / "head"], capture_output=True, text=True, timeout=30, env={
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path), **variables})
    assert done.returncode != 0 and words in done.stderr


def test_the_head_counts_workers_and_starts_the_ranks(tmp_path: Path) -> None:
    for name, text in {"getent": "printf '10.0.0.2 STREAM worker\\n10.0.0.2 DGRAM\\n10.0.0.3 STREAM worker\\n'",
                       "ssh": "printf '%s\\n' \"$*\" >> called",
                       "distgrad": "echo \"$@\" > ran; cat \"$5\" > hosts"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\ncd {tmp_path}\n{text}\n")
        (tmp_path / name).chmod(0o755)
    script = (COMPOSE / "head").read_text().replace("cd /opt/distgrad", f"cd {tmp_path}")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=30, env={
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path), "RANKS": "3", "SCRIPT": "a.py --lr 1"})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "hosts").read_text() == "10.0.0.2 slots=3\n10.0.0.3 slots=3\n"
    assert (tmp_path / "called").read_text() == "-n 10.0.0.2 true\n-n 10.0.0.3 true\n"
    ran = (tmp_path / "ran").read_text().split()
    assert ran[:4] == ["run", "-n", "6", "--hostfile"] and ran[5:] == ["a.py", "--lr", "1"]


def test_a_worker_is_healthy_when_its_port_listens(tmp_path: Path) -> None:
    health = [COMPOSE / "healthy"]
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("0.0.0.0", 2222))
        except OSError:
            pytest.skip("port 2222 is taken")
        environment = {**os.environ, "CLIENT_KEYS": str(tmp_path)}
        assert subprocess.run(health, env=environment, timeout=30).returncode != 0, "bound, but not listening"
        server.listen()
        assert subprocess.run(health, env=environment, timeout=30).returncode == 0


def test_the_head_is_healthy_when_it_finds_workers(tmp_path: Path) -> None:
    (tmp_path / "id_ed25519").write_text("")
    for code in (0, 2):
        (tmp_path / "getent").write_text(f"#!/bin/sh\n[ \"$2\" = worker ] && exit {code}\nexit 9\n")
        (tmp_path / "getent").chmod(0o755)
        done = subprocess.run([COMPOSE / "healthy"], timeout=30, env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "CLIENT_KEYS": str(tmp_path)})
        assert done.returncode == code
