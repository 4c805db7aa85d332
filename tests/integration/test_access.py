"""Access without and with credentials: every RPC and every HTTP route; the limits of a client.

The methods of the public services are taken from their descriptors, so that a new one cannot be
forgotten. Only the methods that need no token are listed here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
import trustme
from google.protobuf.descriptor import MethodDescriptor
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import wuliart_client
from inference_server.network import Network
from tests.support.calls import failure_of
from tests.support.fakes import DEADLINE
from tests.support.harness import InProcessServer, running_server
from tests.support.web_app import name_model, open_openai, open_web
from wuliart.v1 import adapter_pb2, image_generation_pb2
from wuliart_client import TLS, AsyncClient, Client, Unauthenticated, cli
from wuliart_contract.status import Reason
from wuliart_process.tokens import TokenFile

ANN, BOB = "ann-" + "a" * 28, "bob-" + "b" * 28
WRONG = ["", "Bearer", f"Basic {ANN}", "Bearer " + "x" * 32, f"Bearer {ANN}x", ANN]

METHODS: list[MethodDescriptor] = [
    method
    for module in (image_generation_pb2, adapter_pb2, reflection_pb2, health_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
OPEN = {"grpc.health.v1.Health"}
CLOSED = [m for m in METHODS if m.containing_service.full_name not in OPEN]


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"ann {ANN}\nbob {BOB}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
async def server(tmp_path: Path, tokens: Path) -> AsyncIterator[InProcessServer]:
    network = Network(f"unix:{tmp_path}/s", tokens=tokens, per_client=2)
    async with running_server(network=network) as running:
        name_model(running, "qwen-image")
        yield running


def target(server: InProcessServer, tmp_path: Path) -> str:
    return f"unix:{tmp_path}/s"


def call(channel: aio.Channel, method: MethodDescriptor, header: str | None) -> Any:
    """The method with an empty request, whatever kind it is of."""
    service = method.containing_service.full_name
    kind = (
        ("stream" if method.client_streaming else "unary")
        + "_"
        + ("stream" if method.server_streaming else "unary")
    )
    begin = getattr(channel, kind)(f"/{service}/{method.name}", lambda m: b"", lambda b: b)
    metadata = () if header is None else (("authorization", header),)
    request: Any = iter([b""]) if method.client_streaming else b""
    return begin(request, metadata=metadata, timeout=DEADLINE)


@pytest.mark.parametrize("method", CLOSED, ids=lambda m: m.full_name)
async def test_without_credentials_every_rpc_is_rejected(
    server: InProcessServer, tmp_path: Path, method: MethodDescriptor
) -> None:
    channel = server.channel(target(server, tmp_path))
    for header in (None, *WRONG):
        failure = await failure_of(call(channel, method, header))
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "UNAUTHENTICATED",
        ), header
        assert ANN not in failure.message
    assert not server.stages and not server.scheduler.submitted
    assert server.scheduler.metrics.errors[Reason.UNAUTHENTICATED] == 1 + len(WRONG)


async def test_health_is_open_and_every_rpc_is_of_a_service_that_is_listed(
    server: InProcessServer, tmp_path: Path
) -> None:
    channel = server.channel(target(server, tmp_path))
    check = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]
    answer = health_pb2.HealthCheckResponse.FromString(await call(channel, check, None))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert len(CLOSED) == 6


async def test_two_authorization_headers_are_rejected(
    server: InProcessServer, tmp_path: Path
) -> None:
    stub = wuliart_client._client.ImageGenerationServiceStub(
        server.channel(target(server, tmp_path))
    )
    twice = [("authorization", f"Bearer {ANN}"), ("authorization", f"Bearer {BOB}")]
    request = image_generation_pb2.GetServerInfoRequest()
    failure = await failure_of(stub.GetServerInfo(request, metadata=twice))
    assert failure.reason == "UNAUTHENTICATED"


async def test_with_a_token_everything_is_as_without_tokens(
    server: InProcessServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = target(server, tmp_path)
    async with AsyncClient(where, token=ANN) as client:
        assert (await client.info()).model.name == "qwen-image"
        assert await client.adapters() == []
        assert (await client.generate_image("a cat", seed=1)).seed == 1
        await client.with_token(BOB).adapters()
        with pytest.raises(Unauthenticated, match="not valid here"):
            await client.with_token("c" * 32).adapters()
    with pytest.raises(Unauthenticated, match="requires a token"):
        await AsyncClient(where).adapters()
    monkeypatch.setenv("WULIART_TOKEN", BOB)
    async with AsyncClient(where) as client:
        await client.adapters()


async def test_the_command_sends_the_token_of_a_file(
    server: InProcessServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(token: str | None) -> tuple[int, str]:
        arguments = ["--target", target(server, tmp_path), "adapters"]
        if token is not None:
            (tmp_path / "mine").write_text(f"{token}\n")
            arguments += ["--token-file", str(tmp_path / "mine")]
        return cli.main(arguments), capsys.readouterr().err

    assert (await asyncio.to_thread(run, ANN))[0] == 0
    for token in ("x" * 32, None):
        code, said = await asyncio.to_thread(run, token)
        assert code == 1 and "token" in said and len(said.splitlines()) == 1
    (tmp_path / "mine").unlink()
    arguments = ["adapters", "--token-file", str(tmp_path / "mine")]
    assert cli.main(arguments) == 1
    assert "cannot read" in capsys.readouterr().err


async def test_the_limit_of_one_client_does_not_affect_others(
    server: InProcessServer, tmp_path: Path
) -> None:
    server.engine.hold()
    async with AsyncClient(target(server, tmp_path), token=ANN) as ann:
        drawing = [asyncio.create_task(ann.generate_image("a cat", seed=n)) for n in range(2)]
        await server.accepted(2)
        with pytest.raises(wuliart_client.RateLimited, match="2 images of yours") as caught:
            await ann.generate_image("one more")
        assert caught.value.retry_after == 1.0
        bob = asyncio.create_task(ann.with_token(BOB).generate_image("a dog", seed=9))
        await server.accepted(3)
        assert server.scheduler.metrics.errors[Reason.RATE_LIMITED] == 1
        server.engine.free()
        images = await asyncio.gather(*drawing, bob)
        assert [p.seed for p in images] == [0, 1, 9]
        await ann.generate_image("one more")


async def test_reflection_can_be_closed(tmp_path: Path) -> None:
    network = Network(f"unix:{tmp_path}/s", reflection=False)
    async with running_server(network=network) as server:
        channel = server.channel(network.listen)
        (method,) = [m for m in METHODS if m.name == "ServerReflectionInfo"]
        with pytest.raises(aio.AioRpcError) as caught:
            await call(channel, method, None).read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# -- TLS ---------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def files_of(folder: Path, certificate: trustme.LeafCert, name: str) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    return cert, key


async def test_tls_and_certificates_of_clients(tmp_path: Path, authority: trustme.CA) -> None:
    cert, key = files_of(tmp_path, authority.issue_cert("localhost"), "server")
    mine = files_of(tmp_path, authority.issue_cert("me@example.org"), "me")
    theirs = files_of(tmp_path, trustme.CA().issue_cert("other@example.org"), "other")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.cert_pem.bytes())
    network = Network("localhost:0", tls_cert=cert, tls_key=key, tls_client_ca=ca)
    async with running_server(network=network) as server:
        where = f"localhost:{server.public.port}"

        def draw(tls: TLS | None) -> int:
            with Client(where, tls=tls) as client:
                return client.generate_image("a cat", seed=5, timeout=DEADLINE).seed

        assert await asyncio.to_thread(draw, TLS(ca, *mine)) == 5
        for wrong in (None, TLS(ca), TLS(ca, *theirs), TLS(None, *mine)):
            with pytest.raises(wuliart_client.Unavailable):
                await asyncio.to_thread(draw, wrong)


# -- the page and the OpenAI API ---------------------------------------------------------------

DOORS = [
    ("GET", "/"),
    ("GET", "/config"),
    ("GET", "/gradio_api/info"),
    ("POST", "/gradio_api/queue/join"),
    ("GET", "/adapters/news"),
    ("GET", "/images/x/20260101_000000.jpg"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/v1/models"),
    ("POST", "/v1/images/generations"),
    ("GET", "/v1/anything"),
    ("GET", "/no-such-page"),
]


async def test_without_a_token_every_http_route_is_closed(
    server: InProcessServer, tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WULIART_TOKEN", BOB)  # the page's own, for its list of adapters
    async with (
        open_web(target(server, tmp_path), TokenFile(tokens)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        for method, path in DOORS:
            for header in (
                {},
                *({"Authorization": w} for w in WRONG),
                {"Cookie": "wuliart_token=x"},
            ):
                answer = await http.request(method, path, headers=header, json={"prompt": "a cat"})
                assert answer.status_code == 401, (method, path, header)
                if path.startswith("/v1/"):
                    assert answer.json()["error"]["code"] == "invalid_api_key"
        assert (await http.get("/healthz")).status_code == 200
        shown = await http.get("/", headers={"Accept": "text/html", "Accept-Language": "zh"})
        assert shown.status_code == 401 and "令牌" in shown.text
        assert not server.stages
        wrong = await http.post("/login", data={"token": "x" * 32})
        assert wrong.status_code == 401 and "not valid here" in wrong.text
        right = await http.post("/login", data={"token": ANN})
        assert right.status_code == 303
        cookie = right.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert (await http.get("/", headers={"Accept": "text/html"})).status_code == 200
        assert (await http.get("/v1/models")).status_code == 200


async def test_the_openai_api_uses_the_identity_of_the_key(
    server: InProcessServer, tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WULIART_TOKEN", BOB)
    server.engine.hold()
    async with open_openai(target(server, tmp_path), TokenFile(tokens), ANN) as door:
        drawing = [asyncio.create_task(door.images.generate(prompt="a cat")) for _ in range(2)]
        await server.accepted(2)
        with pytest.raises(openai.RateLimitError, match="2 images of yours"):
            await door.images.generate(prompt="one more")
        server.engine.free()
        await asyncio.gather(*drawing)
        stranger = door.with_options(api_key="c" * 32)
        with pytest.raises(openai.AuthenticationError):
            await stranger.images.generate(prompt="a cat")


async def test_a_page_of_another_address_may_do_nothing(
    server: InProcessServer, tmp_path: Path
) -> None:
    async with (
        running_server() as open_server,
        open_web(open_server.target) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        name_model(open_server, "qwen-image")
        ours = {"Origin": f"http://127.0.0.1:{port}"}
        foreign = {"Origin": "https://example.org"}
        body = {"prompt": "a cat"}
        answer = await http.post("/v1/images/generations", json=body, headers=foreign)
        assert answer.status_code == 403 and not open_server.stages
        answer = await http.options(
            "/v1/images/generations",
            headers={**foreign, "Access-Control-Request-Method": "POST"},
        )
        assert "access-control-allow-origin" not in answer.headers
        answer = await http.post("/v1/images/generations", json=body, headers=ours)
        assert answer.status_code == 200
        for path in ("/", "/v1/models"):
            answer = await http.get(path, headers=foreign)
            assert "access-control-allow-origin" not in answer.headers, path
