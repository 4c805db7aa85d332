"""A Python client for WuliArt Turbo.

    from wuliart_client import Client

    with Client("127.0.0.1:50051") as client:
        image = client.generate_image("a lighthouse in ink", adapters=["ink"], on_event=print)
        print(image.save("outputs"))

`Client` and `AsyncClient` are twins. Everything public is named here; the modules with an
underscore are private. The command `wuliart` is this package at the shell.
"""

from wuliart_process import grpc_core_log  # noqa: F401 - before whatever imports grpc

# isort: split
from wuliart_client._adapters import Adapter, AdapterEvent, AdapterEventKind, AdapterState
from wuliart_client._channel import TLS
from wuliart_client._client import AsyncClient, Client
from wuliart_client._events import Completed, Event, Queued, Started, Step
from wuliart_client._exceptions import (
    AdapterNotFound,
    AdapterRefused,
    Busy,
    Cancelled,
    DeadlineExceeded,
    GenerationFailed,
    InvalidRequest,
    NoFreeSlot,
    ProtocolError,
    QueueFull,
    RateLimited,
    Unauthenticated,
    Unavailable,
    WuliArtError,
)
from wuliart_client._image import NAME_PATTERN, AdapterUse, GeneratedImage, SkippedAdapter, Timings
from wuliart_client._recipe import read_recipe
from wuliart_client._requests import AdapterLike, AdapterWeight
from wuliart_client._server_info import (
    DeviceInfo,
    Limits,
    MemorySegment,
    ModelDescription,
    ModelInfo,
    ModelIntroduction,
    ServerInfo,
)
from wuliart_client._streams import AsyncEventStream, EventStream
from wuliart_contract.recipe import Recipe, RecipeAdapter, RecipeError

__all__ = [
    "NAME_PATTERN",
    "TLS",
    "Adapter",
    "AdapterEvent",
    "AdapterEventKind",
    "AdapterLike",
    "AdapterNotFound",
    "AdapterRefused",
    "AdapterState",
    "AdapterUse",
    "AdapterWeight",
    "AsyncClient",
    "AsyncEventStream",
    "Busy",
    "Cancelled",
    "Client",
    "Completed",
    "DeadlineExceeded",
    "DeviceInfo",
    "Event",
    "EventStream",
    "GeneratedImage",
    "GenerationFailed",
    "InvalidRequest",
    "Limits",
    "MemorySegment",
    "ModelDescription",
    "ModelInfo",
    "ModelIntroduction",
    "NoFreeSlot",
    "ProtocolError",
    "QueueFull",
    "Queued",
    "RateLimited",
    "Recipe",
    "RecipeAdapter",
    "RecipeError",
    "ServerInfo",
    "SkippedAdapter",
    "Started",
    "Step",
    "Timings",
    "Unauthenticated",
    "Unavailable",
    "WuliArtError",
    "read_recipe",
]
