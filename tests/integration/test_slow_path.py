"""A server at a round trip of two seconds: every client connects, generates, lists and watches.

No time is scaled down: the product's own time limits must allow for it.
"""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from inference_server.network import Network
from tests.support.fakes import until
from tests.support.hand_manager import HandManager
from tests.support.harness import name_model, running_server
from tests.support.page_calls import PageCalls, inputs
from tests.support.slow_path import slow_path
from tests.support.web_app import open_web
from wuliart_client import TLS, AsyncClient, Client
from wuliart_web.service_watch import ServiceWatch

DELAY = 1.0
"""Seconds, each way."""

PATIENCE = 30.0


@dataclass(frozen=True)
class Far:
    """A server's manager, where the path to it begins, and how to speak with it."""

    manager: HandManager
    target: str
    tls: TLS | None


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
async def far(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Far]:
    network = tls = None
    if request.param:
        authority, cert, key = trustme.CA(), tmp_path / "cert", tmp_path / "key"
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)
        authority.cert_pem.write_to_path(tmp_path / "ca")
        tls = TLS(tmp_path / "ca")
        network = Network("127.0.0.1:0", tls_cert=cert, tls_key=key)
    async with running_server(network=network) as server, HandManager(server) as manager:
        name_model(server, "qwen-image")
        await manager.load("ink")
        near = server.target if network is None else f"127.0.0.1:{server.public.port}"
        with slow_path(near, DELAY) as port:
            yield Far(manager, f"127.0.0.1:{port}", tls)


async def test_the_synchronous_client(far: Far) -> None:
    with Client(far.target, tls=far.tls) as client:

        def watch() -> str:
            with client.watch(timeout=PATIENCE) as events:
                return next(events).adapters[0].name

        drawn, watched, info, adapters = await asyncio.gather(
            asyncio.to_thread(client.generate_image, "a fox", seed=5, timeout=PATIENCE),
            asyncio.to_thread(watch),
            asyncio.to_thread(client.info),
            asyncio.to_thread(client.adapters),
        )
    assert (drawn.seed, watched, info.model.name) == (5, "ink", "qwen-image")
    assert [adapter.name for adapter in adapters] == ["ink"]


async def test_the_asynchronous_client(far: Far) -> None:
    async with AsyncClient(far.target, tls=far.tls) as client:

        async def watch() -> str:
            async with client.watch(timeout=PATIENCE) as events:
                return (await anext(events)).adapters[0].name

        drawn, watched, info, adapters = await asyncio.gather(
            client.generate_image("a fox", seed=5, timeout=PATIENCE),
            watch(),
            client.info(),
            client.adapters(),
        )
    assert (drawn.seed, watched, info.model.name) == (5, "ink", "qwen-image")
    assert [adapter.name for adapter in adapters] == ["ink"]


@pytest.mark.parametrize("far", [True], indirect=True, ids=["tls"])
async def test_the_command(far: Far, tmp_path: Path) -> None:
    ca = [] if far.tls is None else ["--tls-ca", str(far.tls.ca)]

    async def run(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wuliart_client", "--target", far.target, *ca, *arguments),
            cwd=tmp_path,
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            if arguments[0] == "watch":
                assert process.stdout is not None
                return (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode()
            out, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
            assert process.returncode == 0, errors
            return out.decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    drawn, watched, info, adapters = await asyncio.gather(
        run("generate", "a fox", "--seed", "5"), run("watch"), run("info"), run("adapters")
    )
    assert "seed 5" in drawn and "saved outputs" in drawn
    assert watched.startswith("snapshot  ink") and "qwen-image" in info and "ink" in adapters


@pytest.mark.parametrize("far", [True], indirect=True, ids=["tls"])
async def test_the_page(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    if far.tls is not None:
        monkeypatch.setenv("WULIART_TLS_CA", str(far.tls.ca))
    async with (
        open_web(far.target) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as http,
    ):
        outputs = await PageCalls(http).call("generate", inputs(adapter="ink"))
    assert "seed 7" in re.sub("<[^>]*>", " ", outputs[-1][0])
    async with AsyncClient(far.target) as client:
        service = ServiceWatch(client)
        async with service.following():
            await until(lambda: [a.name for a in service.state.adapters] == ["ink"])
            assert service.state.has_manager
            far.manager.detach()
            await until(lambda: not service.state.has_manager)
            assert service.state.error is None
