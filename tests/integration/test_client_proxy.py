"""Clients where the environment names an HTTP proxy: none for this machine, named elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.support.fake_image_server import FakeImageServer, adapter, snapshot
from tests.support.fakes import until
from tests.support.proxy import Proxy, closed_proxy
from tests.support.slow_path import slow_path
from tests.support.web_app import open_web
from wuliart_client import AsyncClient, Client, Unavailable
from wuliart_client._proxy import is_direct, proxy_of

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)
    with closed_proxy() as running:
        yield running


@pytest.fixture
def fake() -> Iterator[FakeImageServer]:
    with FakeImageServer() as server:
        server.adapters = [adapter("ink")]
        yield server


@pytest.fixture
def port(fake: FakeImageServer) -> Iterator[int]:
    with slow_path(fake.target) as number:
        yield number


@pytest.mark.parametrize("variable", VARIABLES)
def test_this_machine_is_reached_without_the_proxy(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, fake: FakeImageServer, port: int, variable: str
) -> None:
    monkeypatch.setenv(variable, proxy.url)
    addresses = ("127.0.0.1", "localhost", "0.0.0.0", "ipv4:127.0.0.1", "dns:///localhost")
    targets = [f"{address}:{port}" for address in addresses]
    for target in (fake.target, f"ipv4:127.0.0.1:{port},127.0.0.1:{port}", *targets):
        with Client(target) as client:
            assert client.info(timeout=20).version == "9.9", target
    assert proxy.requests == []


async def test_the_asynchronous_client_and_the_page_reach_it_too(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, fake: FakeImageServer, port: int
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    target = f"127.0.0.1:{port}"
    async with AsyncClient(target) as client:
        assert (await client.generate_image("a fox", timeout=20)).data
    fake.watches.append([snapshot(1, adapter("ink"))])
    async with (
        open_web(target) as page,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{page}", trust_env=False) as http,
    ):

        async def listed() -> bool:
            return any(m["id"] == "ink" for m in (await http.get("/v1/models")).json()["data"])

        await until(lambda: bool(fake.resume_tokens))
        assert await listed()
    assert proxy.requests == []


def test_the_command_reaches_it_too(
    proxy: Proxy, fake: FakeImageServer, port: int, tmp_path: Path
) -> None:
    environment = {**os.environ, "http_proxy": proxy.url, "https_proxy": proxy.url}
    for part in (["adapters", "--json"], ["generate", "a fox"]):
        result = subprocess.run(
            [sys.executable, "-m", "wuliart_client", "--target", f"127.0.0.1:{port}", *part],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    assert proxy.requests == []


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_proxy_that_was_used_is_named(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, variable: str
) -> None:
    monkeypatch.setenv(variable, proxy.url)
    with Client("host.invalid:1") as client, pytest.raises(Unavailable) as caught:
        client.info(timeout=20)
    assert proxy.requests[0] == "CONNECT host.invalid:1 HTTP/1.1"
    message = caught.value.message
    assert message.startswith(
        "cannot reach the server at host.invalid:1 through the proxy "
        f"127.0.0.1:{proxy.port} (${variable}): to connect without the proxy, put "
    )
    assert "is it running" not in message and "secret" not in message and "\n" not in message


@pytest.mark.parametrize(
    ("environment", "target"),
    [
        ({}, "192.0.2.1:1"),
        ({"no_proxy": "invalid"}, "host.invalid:1"),
        ({"no_proxy": ".host.invalid"}, "host.invalid:1"),
        ({"no_proxy": "other, Invalid"}, "dns:///host.invalid:1"),
        ({"no_proxy": "*"}, "host.invalid:1"),
        ({"no_proxy": "host.invalid:1"}, "host.invalid:1"),
        ({"no_proxy": "192.0.2.0/24"}, "192.0.2.1:1"),
        ({"no_proxy": "192.0.2.0/24"}, "192.0.3.1:1"),
        ({"no_proxy": "192.0.2.1", "no_grpc_proxy": ""}, "ipv4:192.0.2.1:1"),
        ({"no_proxy": "192.0.2.1:1"}, "192.0.2.1:1"),
        ({"grpc_proxy": ""}, "192.0.2.1:1"),
        ({"http_proxy": "127.0.0.1:1"}, "192.0.2.1:1"),
        ({"http_proxy": "https://127.0.0.1:1"}, "192.0.2.1:1"),
    ],
)
def test_what_is_said_of_the_proxy_is_what_grpc_did(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, environment: dict[str, str], target: str
) -> None:
    for name, value in ({"http_proxy": proxy.url} | environment).items():
        monkeypatch.setenv(name, value)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target, options) as channel:
        call: Any = channel.unary_unary("/a/b")
        with pytest.raises(grpc.RpcError):
            call(b"", timeout=1)
    assert bool(proxy.requests) == (proxy_of(target) is not None)


def test_which_targets_no_proxy_may_stand_before() -> None:
    direct = (
        "unix:/s", "unix:///s", "unix-abstract:s", "localhost:1", "LOCALHOST:1", "localhost.:1",
        "a.localhost:1", "127.0.0.1", "127.9.9.9:1", "[::1]:1", "::1", "ipv6:[::1]:1",
        "ipv6:%5B::1%5D:1", "[::ffff:127.0.0.1]:1", "dns:localhost:1", "dns://8.8.8.8/localhost:1",
        "ipv4:10.0.0.1:1,10.0.0.2:1", "127.1:1", "0:1", "0x7f000001:1", "2130706433:1", "0177.1:1",
        "ip6-localhost:1", "ip6-loopback:1", "localhost.localdomain:1", "localhost6:1",
    )  # fmt: skip
    assert [target for target in direct if not is_direct(target)] == []
    others = (
        "10.0.0.1:1", "localhost.example:1", "notlocalhost:1", "[2001:db8::1]:1", "host:1",
        "10.1:1", "0x0a000001:1", "1.2.3.4.5:1", "localdomain:1",
    )  # fmt: skip
    assert [target for target in others if is_direct(target)] == []


def test_a_name_that_the_hosts_file_gives_to_this_machine_is_direct(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# box\n127.0.1.1\tmybox.lan  MyBox # mine\n10.0.0.1 other\nnonsense box2\n")
    monkeypatch.setattr("wuliart_client._proxy.HOSTS_FILE", hosts)
    assert [is_direct(f"{name}:1") for name in ("mybox", "mybox.lan.")] == [True, True]
    assert not any(is_direct(f"{name}:1") for name in ("other", "box", "mine", "box2", "box.lan"))
    monkeypatch.setattr("wuliart_client._proxy.HOSTS_FILE", tmp_path / "none")
    assert not is_direct("mybox:1")
