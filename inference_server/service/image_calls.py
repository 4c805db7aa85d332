"""The course of a `GenerateImage` call, the same in a single server and in a fleet's front.

Its request id is set, its request is accepted or rejected, and its responses are written.
`BackendImageServicer` and `FleetImageServicer` generate the images.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from grpc import aio

from inference_server.errors import RequestError
from inference_server.service.request_ids import begin_request, send_request_id
from wuliart.v1 import image_generation_pb2 as pb
from wuliart.v1 import image_generation_pb2_grpc as rpc
from wuliart_contract.status import Reason

Context = aio.ServicerContext[Any, Any]
Responses = AsyncGenerator[pb.GenerateImageResponse, None]

log = logging.getLogger(__name__)


class ImageServicer(rpc.ImageGenerationServiceServicer):
    """Abstract base of the servicers; `StatusInterceptor` turns exceptions into statuses."""

    async def GenerateImage(
        self, request: pb.GenerateImageRequest, context: Context
    ) -> AsyncIterator[pb.GenerateImageResponse]:
        """See the .proto file."""
        begin_request(context.invocation_metadata())
        try:
            accepted = self.accept(request)
        except RequestError as error:
            log.info("refused: %s", error.reason)
            self.count_error(error.reason)
            raise
        identified = False
        # Closed when the client cancels, its deadline passes or its connection breaks, too.
        async with aclosing(accepted) as responses:
            async for response in responses:
                if not identified:
                    # Not before the first response: gRPC does not retry a call that has sent
                    # anything.
                    await send_request_id(context)
                    identified = True
                yield response

    @abstractmethod
    def accept(self, request: pb.GenerateImageRequest) -> Responses:
        """Validates and queues a request.

        Returns:
            The responses; closing them cancels the request.

        Raises:
            RequestError: the request is rejected.
        """

    @abstractmethod
    def count_error(self, reason: Reason) -> None:
        """Counts a call that was rejected."""
