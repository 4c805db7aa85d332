"""Each wheel in an environment that holds the wheel, its requirements, and nothing else."""

from __future__ import annotations

import json
import shutil
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.support.installed import DEADLINE, ROOT, Builder, Environment
from tests.support.ports import free_port

CLIENT_PACKAGES = {"wuliart", "wuliart_client", "wuliart_contract", "wuliart_process"}
CLIENT_REQUIREMENTS = {
    "grpcio", "protobuf", "googleapis-common-protos", "rich",
    # What these need.
    "markdown-it-py", "mdurl", "pygments", "typing-extensions",
}  # fmt: skip
SERVER_PACKAGES = {"wuliart", "inference_server", "lora_manager", "wuliart_lora", "wuliart_web"}

GENERATE_AND_REPORT = """
import json, sys
from wuliart_client.cli import main
code = main(sys.argv[1:])
files = {m.partition(".")[0]: getattr(sys.modules[m], "__file__", None) for m in list(sys.modules)}
print(json.dumps(files), file=sys.stderr)
sys.exit(code)
"""


def until_ready(client: Environment, target: str, cwd: Path) -> None:
    ends = time.monotonic() + DEADLINE
    while client.run("wuliart", "--target", target, "info", cwd=cwd).returncode:
        assert time.monotonic() < ends, "the server does not start"


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("builder"))


@pytest.fixture(scope="module")
def wheels(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, built from the checkout."""
    return builder.wheels(tmp_path_factory.mktemp("wheels"), *builder.projects)


@pytest.fixture(scope="module")
def client(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("client"), wheels["wuliart_client"])


@pytest.fixture(scope="module")
def server(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("server"), *wheels.values())


def contents(wheel: Path) -> dict[str, int]:
    """Name -> checksum of each file."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            entry.filename: entry.CRC
            for entry in archive.infolist()
            if not entry.filename.endswith(("/RECORD", "/WHEEL"))
        }


def packages(wheel: Path) -> set[str]:
    return {name.split("/")[0] for name in contents(wheel) if ".dist-info/" not in name}


def test_what_each_wheel_holds(wheels: dict[str, Path]) -> None:
    client, server = wheels["wuliart_client"], wheels["wuliart_turbo"]
    assert client.stat().st_size < 1_000_000
    assert packages(client) == CLIENT_PACKAGES
    assert packages(server) == SERVER_PACKAGES
    assert not any(name.startswith("wuliart/internal") for name in contents(client))
    assert {"wuliart_web/assets/page.css", "wuliart_web/assets/viewer.js"} <= set(contents(server))
    shared = set(contents(client)) & set(contents(server))
    assert not shared, "installing one would overwrite files of the other"
    for wheel in wheels.values():
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents(wheel))


def test_a_build_from_the_sdist_gives_the_same_wheel(
    builder: Builder, wheels: dict[str, Path], tmp_path: Path
) -> None:
    for project in builder.projects:
        builder.sdist(project, tmp_path)
    again = builder.wheels(tmp_path / "wheels", *tmp_path.glob("*.tar.gz"))
    for name, wheel in wheels.items():
        assert contents(again[name]) == contents(wheel)


def test_the_client_needs_nothing_heavier_than_grpc_and_rich(client: Environment) -> None:
    assert client.requirements == CLIENT_REQUIREMENTS


def test_the_server_does_not_need_its_extras(server: Environment) -> None:
    extras = {"gradio", "fastapi", "uvicorn", "ray", "opentelemetry-sdk"}
    assert not extras & server.requirements


def test_packages_come_from_the_wheels(server: Environment, tmp_path: Path) -> None:
    code = (
        "import inference_server.config as c, lora_manager, wuliart_client, wuliart_web, "
        "wuliart.v1.image_generation_pb2_grpc, wuliart.internal.v1.segment_pb2_grpc;"
        "print(c.__file__, lora_manager.__file__, wuliart_client.__file__, c.EMBEDDED_MODEL)"
    )
    result = server.run("python", "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    paths = result.stdout.split()
    assert all(path.startswith(str(server.site)) for path in paths), paths
    assert (Path(paths[-1]) / "vae" / "diffusion_pytorch_model.safetensors").is_file()


@pytest.mark.parametrize("command", ["wuliart-server", "wuliart-lora-manager", "wuliart-web"])
def test_console_commands_answer(server: Environment, tmp_path: Path, command: str) -> None:
    result = server.run(command, "--help", cwd=tmp_path)
    assert command in result.stdout, result.stderr


def test_the_page_without_its_extra_says_what_to_install(
    server: Environment, tmp_path: Path
) -> None:
    result = server.run("wuliart-web", cwd=tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "gradio" in line and 'pip install "wuliart-turbo[page]"' in line


def test_the_page_is_served_with_its_extra(
    wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = tmp_path_factory.mktemp("page")
    page = Environment(folder, *wheels.values(), extras=("page",))
    port = free_port()
    with page.running("wuliart-web", "--port", str(port), cwd=tmp_path):
        ends = time.monotonic() + DEADLINE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                    assert b"WuliArt" in answer.read()
                    break
            except OSError:
                assert time.monotonic() < ends, "the page does not start"
                time.sleep(0.5)


def test_installed_server_manager_and_client_generate_an_image(
    server: Environment, client: Environment, tmp_path: Path
) -> None:
    target = f"unix:{tmp_path}/public.sock"
    sockets = ("--runtime-dir", str(tmp_path / "r"))
    (tmp_path / "loras").mkdir()
    shutil.copy(ROOT / "loras" / "ink.safetensors", tmp_path / "loras")
    with (
        server.running("wuliart-server", "--listen", target, *sockets, cwd=tmp_path),
        server.running(
            "wuliart-lora-manager", "--loras", str(tmp_path / "loras"), *sockets, cwd=tmp_path
        ),
    ):
        until_ready(client, target, tmp_path)
        ends = time.monotonic() + DEADLINE
        listing = ("--target", target, "adapters")
        while "resident" not in client.run("wuliart", *listing, cwd=tmp_path).stdout:
            assert time.monotonic() < ends, "the adapter does not become resident"
        arguments = ("--target", target, "generate", "a boat", "--adapter", "ink", "--json")
        result = client.run("python", "-I", "-c", GENERATE_AND_REPORT, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["adapters"][0]["name"] == "ink"
    (image,) = (tmp_path / "outputs").iterdir()
    assert image.read_bytes()[:2] == b"\xff\xd8"
    imported = json.loads(result.stderr.splitlines()[-1])
    foreign = {
        name: file
        for name, file in imported.items()
        if name not in sys.stdlib_module_names
        and file is not None
        and not file.startswith(str(client.site))
    }
    assert not foreign
