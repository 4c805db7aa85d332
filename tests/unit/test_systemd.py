"""Tests that systemd accepts every line of the units, and the programs their command lines.

systemd only logs lines that it does not know and ignores them; here such a line fails a test.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inference_server.config import parse_arguments
from lora_manager.config import parse_config

ROOT = Path(__file__).resolve().parents[2]
UNITS = {path.stem: path for path in (ROOT / "docs" / "systemd").glob("*.service")}
BIN = "/opt/wuliart/.venv/bin/"

HARDENED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "ProtectKernelModules": "yes",
    "CapabilityBoundingSet": "",
    "UMask": "0077",
    "Restart": "on-failure",
    "RestartPreventExitStatus": "2",
}


def keys(unit: str) -> dict[str, str]:
    """Returns the values of all keys of all sections; no key may be repeated."""
    found: dict[str, str] = {}
    sections = []
    for line in UNITS[unit].read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            sections.append(line)
        elif line and not line.startswith("#"):
            key, separator, value = line.partition("=")
            assert separator and key.isalnum(), line
            assert key not in found, f"{key} is given twice"
            found[key] = value
    assert sections == ["[Unit]", "[Service]", "[Install]"]
    return found


def command(unit: str) -> list[str]:
    program, *arguments = shlex.split(keys(unit)["ExecStart"])
    assert program == f"{BIN}{unit}"
    assert (Path(sys.prefix) / "bin" / unit).exists()
    return arguments


def test_a_unit_for_each_program() -> None:
    assert set(UNITS) == {"wuliart-server", "wuliart-lora-manager", "wuliart-web"}


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_is_hardened_and_comes_back(unit: str) -> None:
    found = keys(unit)
    assert HARDENED.items() <= found.items()
    assert found["User"] == found["Group"] == "wuliart"


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_every_line(unit: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed here")
    text = UNITS[unit].read_text(encoding="utf-8").replace(BIN, f"{sys.prefix}/bin/")
    copy = tmp_path / UNITS[unit].name
    copy.write_text(text, encoding="utf-8")
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_server_understands_its_command_and_has_time_to_end() -> None:
    config = parse_arguments(command("wuliart-server"))
    found = keys("wuliart-server")
    assert float(found["TimeoutStopSec"]) > config.grace
    assert config.runtime_dir == Path("/run") / found["RuntimeDirectory"]
    assert found["RuntimeDirectoryMode"] == "0700"
    assert config.network.listen.startswith("127.0.0.1:")
    # Triton's cache is in the home folder, and ProtectHome hides the user's own.
    assert found["Environment"] == f"HOME=/var/cache/{found['CacheDirectory']}"


def test_the_manager_understands_its_command_and_meets_the_server(tmp_path: Path) -> None:
    arguments = command("wuliart-lora-manager")
    # The manager creates a missing folder while parsing, so the test passes another one.
    arguments[arguments.index("--loras") + 1] = str(tmp_path)
    config = parse_config(arguments, {})
    assert config.runtime_dir == parse_arguments(command("wuliart-server")).runtime_dir


def test_the_page_understands_its_command_and_meets_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from wuliart_web import __main__ as web

    served: dict[str, object] = {}
    monkeypatch.setattr(web, "AsyncClient", lambda target: served.update(target=target))
    monkeypatch.setattr("wuliart_web.app.create_app", lambda *_: None)
    monkeypatch.setattr(web, "send_to_stderr", lambda *_: None)

    async def serve(_: object, host: str, *rest: object) -> None:
        served.update(host=host)

    monkeypatch.setattr("wuliart_web.serving.serve", serve)
    web.main(command("wuliart-web"))
    assert served["host"] == "127.0.0.1"
    assert served["target"] == parse_arguments(command("wuliart-server")).network.listen
