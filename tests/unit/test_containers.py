"""Tests of Dockerfile, .dockerignore, and compose files, without Docker.

They check the structure in detail and run the manager's health check against a real process.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = [
    tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
    for folder in (".", "clients/python")
]
SCRIPTS = PROJECTS[0]["project"]["scripts"] | PROJECTS[1]["project"]["scripts"]
SERVICE_KEYS = {
    "build", "image", "command", "ports", "volumes", "shm_size", "deploy", "healthcheck",
    "restart", "stop_grace_period", "cap_drop", "security_opt", "depends_on", "read_only", "tmpfs",
}  # fmt: skip
HEALTHCHECK_KEYS = {"test", "interval", "timeout", "retries", "start_period", "start_interval"}
IMAGE_USER = "10001"


class ComposeLoader(yaml.SafeLoader):
    """Loads YAML with compose's `!reset`, which removes an earlier file's value; here None."""


ComposeLoader.add_constructor("!reset", lambda loader, node: None)


def load(name: str) -> dict[str, Any]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return yaml.load(text, ComposeLoader)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return load("compose.yaml")


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Returns the Dockerfile as (INSTRUCTION, rest), with continuation lines joined."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    parsed = [line.strip().partition(" ") for line in joined if line.strip()]
    return [(name, " ".join(rest.split())) for name, _, rest in parsed]


def devices(service: dict[str, Any]) -> Any:
    return service["deploy"]["resources"]["reservations"]["devices"]


def test_the_three_services_and_nothing_misspelt(compose: dict[str, Any]) -> None:
    assert set(compose) == {"name", "services", "volumes"}
    assert set(compose["services"]) == {"server", "lora-manager", "web"}
    for name, service in compose["services"].items():
        assert set(service) <= SERVICE_KEYS
        assert set(service["healthcheck"]) <= HEALTHCHECK_KEYS
        assert service["build"] == "."
        assert service["image"] == "wuliart-turbo"
        assert service.get("shm_size") == (None if name == "web" else "2gb")
        assert service["restart"] == "unless-stopped"


def test_commands_exist_and_their_options_are_understood(compose: dict[str, Any]) -> None:
    from inference_server.config import parse_arguments
    from lora_manager.config import parse_config

    server = compose["services"]["server"]["command"]
    manager = compose["services"]["lora-manager"]["command"]
    cpu = load("compose.cpu.yaml")["services"]["server"]["command"]
    check = compose["services"]["server"]["healthcheck"]["test"]
    assert check[0] == "CMD"
    assert check[1:] == ["wuliart", "--target", "127.0.0.1:50051", "info"]
    assert {server[0], manager[0], cpu[0], check[1]} <= set(SCRIPTS)
    assert server[0] == "wuliart-server" and manager[0] == "wuliart-lora-manager"
    web = compose["services"]["web"]["command"]
    assert web[0] == "wuliart-web" and web[0] in SCRIPTS
    assert web[-1] == "--insecure"
    assert dict(zip(web[1:-1:2], web[2:-1:2], strict=True)) == {
        "--host": "0.0.0.0",
        "--port": "7860",
        "--server": "server:50051",
    }

    config = parse_arguments(server[1:])
    assert config.network.listen == "0.0.0.0:50051"
    assert parse_arguments(cpu[1:]).device == "cpu"
    assert cpu[: len(server)] == server
    # The manager creates a missing folder while parsing, so the test passes an existing one.
    options = [str(ROOT / "loras") if word == "/app/models/lora" else word for word in manager[1:]]
    assert options != manager[1:]
    assert parse_config(options, {}).runtime_dir == config.runtime_dir == Path("/run/wuliart")
    grace = compose["services"]["server"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > config.grace


def test_only_this_machine_reaches_the_server(compose: dict[str, Any]) -> None:
    assert compose["services"]["server"]["ports"] == ["127.0.0.1:50051:50051"]
    assert compose["services"]["web"]["ports"] == ["127.0.0.1:7860:7860"]
    assert "ports" not in compose["services"]["lora-manager"]


def test_both_name_the_same_gpu_and_refuse_to_start_without_it(compose: dict[str, Any]) -> None:
    server, manager = (compose["services"][name] for name in ("server", "lora-manager"))
    assert devices(server) == devices(manager)
    (device,) = devices(server)
    assert set(device) == {"driver", "device_ids", "capabilities"}
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    (identifier,) = device["device_ids"]
    assert identifier.startswith("${WULIART_GPU_UUID:?") and identifier.endswith("}")


def test_the_sockets_share_a_tmpfs_and_loras_are_read_only(
    compose: dict[str, Any], instructions: list[tuple[str, str]]
) -> None:
    server, manager = (compose["services"][name] for name in ("server", "lora-manager"))
    assert server["volumes"] == ["runtime:/run/wuliart"]
    assert manager["volumes"] == ["runtime:/run/wuliart", "./loras:/app/models/lora:ro"]
    assert (ROOT / "loras").is_dir()
    assert set(compose["volumes"]) == {"runtime"}
    options = compose["volumes"]["runtime"]["driver_opts"]
    assert options["type"] == options["device"] == "tmpfs"
    # The server refuses a folder of another user, so its user must own the tmpfs.
    mount = dict(part.split("=") for part in options["o"].split(","))
    assert mount["uid"] == mount["gid"] == IMAGE_USER
    assert mount["mode"] == "0700"
    assert any(
        name == "RUN" and rest.startswith(f"useradd --uid {IMAGE_USER} ")
        for name, rest in instructions
    )


def test_nothing_is_written_but_to_memory(
    compose: dict[str, Any], instructions: list[tuple[str, str]]
) -> None:
    tmpfs = {
        name: {
            path: options.split(",")
            for path, _, options in (mount.partition(":") for mount in service.get("tmpfs", []))
        }
        for name, service in compose["services"].items()
    }
    assert all(service["read_only"] is True for service in compose["services"].values())
    assert {name: set(mounts) for name, mounts in tmpfs.items()} == {
        "server": {"/tmp", "/home/wuliart"},
        "lora-manager": set(),
        "web": {"/tmp"},
    }
    # The tmpfs mounts are limited in size, and only Triton's cache may contain executable files.
    assert all(
        any(option.startswith("size=") for option in options)
        for mounts in tmpfs.values()
        for options in mounts.values()
    )
    home = tmpfs["server"]["/home/wuliart"]
    assert {"exec", "mode=0700", f"uid={IMAGE_USER}", f"gid={IMAGE_USER}"} <= set(home)
    assert "exec" not in tmpfs["server"]["/tmp"] + tmpfs["web"]["/tmp"]
    assert any("--create-home" in rest for name, rest in instructions if name == "RUN")


def test_the_manager_waits_for_a_healthy_server(compose: dict[str, Any]) -> None:
    manager = compose["services"]["lora-manager"]
    assert manager["depends_on"] == {"server": {"condition": "service_healthy"}}
    assert compose["services"]["web"]["depends_on"] == manager["depends_on"]


def test_the_cpu_override_takes_the_gpu_from_both(compose: dict[str, Any]) -> None:
    text = (ROOT / "compose.cpu.yaml").read_text(encoding="utf-8")
    assert text.count("deploy: !reset null") == 2
    override = load("compose.cpu.yaml")["services"]
    assert set(override) == set(compose["services"]) - {"web"}
    assert all(service["deploy"] is None for service in override.values())


def test_the_managers_health_check_tells_a_live_manager_from_others(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    kind, check = compose["services"]["lora-manager"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    assert "$" not in check  # compose would substitute it

    def healthy(pid: int) -> bool:
        command = check.replace("/proc/1/", f"/proc/{pid}/")
        assert str(pid) in command
        return subprocess.run(["sh", "-c", command], capture_output=True).returncode == 0

    (tmp_path / "loras").mkdir()
    script = Path(sys.executable).parent / "wuliart-lora-manager"
    manager = subprocess.Popen(
        [script, "--loras", tmp_path / "loras", "--runtime-dir", tmp_path],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert manager.stderr is not None
        assert "watching" in manager.stderr.readline()
        assert healthy(manager.pid)
        manager.send_signal(signal.SIGSTOP)
        # The signal is on its way when send_signal returns; waitid sees it arrive.
        os.waitid(os.P_PID, manager.pid, os.WSTOPPED)
        assert not healthy(manager.pid)
        manager.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, manager.pid, os.WCONTINUED)
        assert healthy(manager.pid)
    finally:
        manager.kill()
        # Not reaped yet: a zombie does not count as a manager.
        os.waitid(os.P_PID, manager.pid, os.WEXITED | os.WNOWAIT)
        dead = healthy(manager.pid)
        manager.communicate()
    assert not dead
    assert not healthy(os.getpid())


def test_the_dockerfiles_instructions(instructions: list[tuple[str, str]]) -> None:
    names = [name for name, _ in instructions]
    assert set(names) <= {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "CMD"}
    assert instructions[0] == ("FROM", "python:3.11-slim")
    assert names.count("FROM") == 1
    runs = [rest for name, rest in instructions if name == "RUN"]
    for run in runs:
        assert shlex.split(run)
    dependencies = "pip install --require-hashes -r hashes/runtime.txt -r hashes/torch-cuda.txt"
    assert runs.index(dependencies) < runs.index("pip install --no-deps ./clients/python .")
    # A slim image has no C compiler, which Triton needs on a GPU.
    assert any(" gcc " in run for run in runs)
    # Everything after USER runs as that user, so all installation comes before.
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    assert dict(instructions)["USER"] == "wuliart"
    assert dict(instructions)["EXPOSE"] == "50051 7860"
    assert names[-1] == "CMD"
    assert json.loads(instructions[-1][1]) == load("compose.yaml")["services"]["server"]["command"]


def test_each_copy_has_a_source_that_dockerignore_lets_through(
    instructions: list[tuple[str, str]],
) -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = set()
    for name, rest in instructions:
        if name == "COPY":
            *sources, target = rest.split()
            assert len(sources) == 1 or target.endswith("/")
            copied |= {source.rstrip("/") for source in sources}
    assert copied == allowed
    for source in copied:
        assert (ROOT / source).exists(), source
    assert not any(fnmatch.fnmatch("loras", rule) for rule in allowed)


def test_the_build_has_every_file_that_pyproject_names(
    instructions: list[tuple[str, str]],
) -> None:
    copied = " ".join(rest for name, rest in instructions if name == "COPY")
    project, client = PROJECTS
    hatch = project["tool"]["hatch"]
    needed = [
        project["project"]["readme"],
        hatch["version"]["path"],
        hatch["build"]["hooks"]["custom"]["path"],
        *hatch["build"]["targets"]["wheel"]["packages"],
        client["tool"]["hatch"]["version"]["path"].removeprefix("../../"),
    ]
    for path in needed:
        assert path.split("/")[0] in copied.replace("/", " ").split(), path
