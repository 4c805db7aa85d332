"""The two gRPC servers of the process: the public one, and the one for the LoRA manager."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from inference_server.errors import ServerError
from inference_server.network import Network
from inference_server.service import health
from inference_server.service.clients import ClientLimits, Clients
from inference_server.service.grpc_log import limit_grpc
from inference_server.service.guard import Guard
from inference_server.service.health import Health
from inference_server.service.rpc_server import KEEPALIVE, public_server
from inference_server.service.status import StatusInterceptor
from inference_server.service.unix_address import reserved
from wuliart.internal.v1 import segment_pb2_grpc
from wuliart.v1 import (
    adapter_pb2,
    adapter_pb2_grpc,
    image_generation_pb2,
    image_generation_pb2_grpc,
)
from wuliart_contract.limits import MAX_CONTROL_BYTES
from wuliart_contract.status import Reason
from wuliart_process.certificates import (
    Certificate,
    CertificateError,
    CertificateFiles,
    WatchedCertificate,
)
from wuliart_process.tokens import TokenFile, TokenFileError

SERVICES = (
    image_generation_pb2.DESCRIPTOR.services_by_name["ImageGenerationService"].full_name,
    adapter_pb2.DESCRIPTOR.services_by_name["AdapterService"].full_name,
)


class ListenError(ServerError):
    """The server cannot listen on an address; the message names it."""


class PublicListener:
    """Serves clients; health is NOT_SERVING until `ready` and again from `draining` on.

    Args:
        network: address, TLS, tokens and limits.
        images: servicer of ImageGenerationService.
        adapters: servicer of AdapterService.
        on_reject: called with the reason of each call that the guard rejects.
    """

    def __init__(
        self,
        network: Network,
        *,
        images: image_generation_pb2_grpc.ImageGenerationServiceServicer,
        adapters: adapter_pb2_grpc.AdapterServiceServicer,
        on_reject: Callable[[Reason], None],
    ) -> None:
        limits = ClientLimits(network.per_client, network.per_minute, time.monotonic)
        guard = Guard(Clients(_tokens(network)), limits, on_reject)
        limit_grpc()
        self._server = public_server([guard, StatusInterceptor()])
        self._health = Health(SERVICES)
        image_generation_pb2_grpc.add_ImageGenerationServiceServicer_to_server(images, self._server)
        adapter_pb2_grpc.add_AdapterServiceServicer_to_server(adapters, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if network.reflection:
            reflection.enable_server_reflection(
                (*SERVICES, health.NAME, reflection.SERVICE_NAME),
                self._server,
                pool=_public_descriptors(),
            )
        with reserved(network.listen):
            self.port = _bind(self._server, network.listen, _credentials(network))

    async def start(self) -> None:
        """Begins to listen; health is NOT_SERVING."""
        await self._server.start()

    def ready(self) -> None:
        """Sets health to SERVING."""
        self._health.ready()

    def draining(self) -> None:
        """Sets health to NOT_SERVING for good; open calls continue."""
        self._health.draining()

    async def stop(self, grace: float) -> None:
        """Stops, and ends calls that are still open after `grace` seconds."""
        await self._server.stop(grace)


class ControlListener:
    """Serves the LoRA manager on a Unix socket of mode 0600.

    The token that `Attach` requires (see `DescriptorSocket`) is a second check of its user.
    """

    def __init__(self, path: Path, segment: segment_pb2_grpc.SegmentServiceServicer) -> None:
        self._server = aio.server(
            interceptors=[StatusInterceptor()],
            options=[("grpc.max_receive_message_length", MAX_CONTROL_BYTES), *KEEPALIVE],
        )
        segment_pb2_grpc.add_SegmentServiceServicer_to_server(segment, self._server)
        _bind(self._server, f"unix:{path}")
        path.chmod(0o600)

    async def start(self) -> None:
        """Begins to serve."""
        await self._server.start()

    async def stop(self) -> None:
        """Stops at once, which ends the manager's session."""
        await self._server.stop(0)


def _public_descriptors() -> DescriptorPool:
    """Returns the descriptors for reflection; the default pool also has the internal contract."""
    pool = DescriptorPool()
    added: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        pool.AddSerializedFile(file.serialized_pb)

    for module in (image_generation_pb2, adapter_pb2, health_pb2, reflection_pb2):
        add(module.DESCRIPTOR)
    return pool


def _tokens(network: Network) -> TokenFile | None:
    try:
        return TokenFile(network.tokens) if network.tokens else None
    except TokenFileError as error:
        raise ListenError(f"--tokens: {error}") from None


def _credentials(network: Network) -> grpc.ServerCredentials | None:
    if network.tls_cert is None or network.tls_key is None:
        return None
    files = CertificateFiles(network.tls_cert, network.tls_key, network.tls_client_ca)
    try:
        certificate = WatchedCertificate(files)
    except CertificateError as error:
        raise ListenError(str(error)) from None

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC at each connection, on threads of its own; None: use the last one."""
        found = certificate.renewed()
        return None if found is None else _configuration(found)

    fetch: Any = renewed  # the type stubs do not know that it may return None
    return grpc.dynamic_ssl_server_credentials(
        _configuration(certificate.current), fetch, files.authority is not None
    )


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    pair = (certificate.key, certificate.chain)
    return grpc.ssl_server_certificate_configuration([pair], certificate.authority)


def _bind(
    server: aio.Server, address: str, credentials: grpc.ServerCredentials | None = None
) -> int:
    try:
        if credentials is not None:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError:
        raise ListenError(
            f"cannot listen on {address}: the address is taken or not this machine's; "
            "name another with --listen"
        ) from None
