"""The one table between reasons, status codes and exceptions; and the requests never sent."""

from __future__ import annotations

import pickle

import pytest

import wuliart_client
from wuliart_client import AdapterNotFound, AdapterWeight, InvalidRequest, QueueFull, WuliArtError
from wuliart_client._failures import BY_REASON
from wuliart_client._requests import build_generate_request
from wuliart_contract.status import Reason


def test_every_reason_has_an_exception():
    assert set(BY_REASON) == set(Reason)


def test_the_public_names():
    assert sorted(wuliart_client.__all__) == [
        "Adapter", "AdapterEvent", "AdapterEventKind", "AdapterLike",
        "AdapterNotFound", "AdapterRefused", "AdapterState", "AdapterUse", "AdapterWeight",
        "AsyncClient", "AsyncEventStream", "Busy", "Cancelled", "Client", "Completed",
        "DeadlineExceeded", "DeviceInfo", "Event", "EventStream", "GeneratedImage",
        "GenerationFailed", "InvalidRequest", "Limits", "MemorySegment",
        "ModelDescription", "ModelInfo", "ModelIntroduction", "NAME_PATTERN",
        "NoFreeSlot", "ProtocolError", "QueueFull", "Queued", "RateLimited",
        "Recipe", "RecipeAdapter", "RecipeError", "ServerInfo", "SkippedAdapter", "Started",
        "Step", "TLS", "Timings", "Unauthenticated", "Unavailable", "WuliArtError",
        "read_recipe",
    ]  # fmt: skip
    for name in wuliart_client.__all__:
        getattr(wuliart_client, name)


def test_the_twins_have_the_same_methods():
    def public(kind):
        return {name for name in vars(kind) if not name.startswith("_")} - {"close", "aclose"}

    assert public(wuliart_client.Client) == public(wuliart_client.AsyncClient)


@pytest.mark.parametrize(
    "error",
    [
        WuliArtError("m", "R", {"a": "b"}),
        QueueFull("m", "QUEUE_FULL", {}, 2.5),
        InvalidRequest("m", "INVALID_REQUEST", {}, (("prompt", "is empty"),)),
        AdapterNotFound("m", "ADAPTER_NOT_FOUND", {"nearest": "ink"}),
    ],
)
def test_exceptions_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == "m"
    assert vars(copy) == vars(error)


def test_adapters_in_all_their_forms():
    request = build_generate_request(
        "p", 0, None, ["a", ("b", 0.5), AdapterWeight("c", -1)], False, True
    )
    assert [(a.name, a.weight) for a in request.adapters] == [("a", 1), ("b", 0.5), ("c", -1)]
    assert request.HasField("seed")
    assert not request.HasField("steps")


def test_one_string_is_not_a_list_of_adapters():
    with pytest.raises(TypeError, match=r"adapters=\['ink'\]"):
        build_generate_request("p", None, None, "ink", False, True)


def test_what_a_message_cannot_carry_is_listed_in_full():
    with pytest.raises(InvalidRequest) as caught:
        build_generate_request("\udcff", -1, -2, ["\udc80"], False, True)
    fields = [field for field, _ in caught.value.violations]
    assert fields == ["prompt", "seed", "steps", "adapters[0].name"]
