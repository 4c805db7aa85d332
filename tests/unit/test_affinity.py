"""Routing: prefers a replica that holds the adapters and is free enough, else the least loaded."""

from __future__ import annotations

import random

from inference_server.ray_app.affinity import PATIENCE_BUSY, PATIENCE_IDLE, Affinity


def fleet(**held: str) -> Affinity:
    """Returns replicas by name, each assigned one image per adapter."""
    affinity = Affinity(slots=2)
    for replica, adapters in held.items():
        for name in adapters:
            affinity.assigned(replica, [name])
    return affinity


def test_without_adapters_the_least_loaded_comes_first() -> None:
    affinity = fleet(a="xy", b="")
    assert affinity.order({"a": 1, "b": 2, "c": 0}, []) == ["c", "a", "b"]


def test_a_holder_is_preferred_while_it_is_free_enough() -> None:
    affinity = fleet(a="x", b="y")
    assert affinity.order({"a": PATIENCE_IDLE, "b": 0}, ["x"])[0] == "a"
    assert affinity.order({"a": PATIENCE_IDLE + 1, "b": 0}, ["x"])[0] == "b"
    assert affinity.order({"a": 1 + PATIENCE_BUSY, "b": 1}, ["x"])[0] == "a"
    assert affinity.order({"a": 2 + PATIENCE_BUSY, "b": 1}, ["x"])[0] == "b"


def test_of_two_holders_the_less_loaded_comes_first() -> None:
    affinity = fleet(a="x", b="x")
    assert affinity.order({"a": 2, "b": 1}, ["x"])[0] == "b"


def test_a_cold_adapter_goes_to_an_empty_slot() -> None:
    affinity = fleet(a="xy", b="x", c="xy")
    assert affinity.order({"a": 0, "b": 0, "c": 0}, ["z"])[0] == "b"


def test_a_cold_adapter_evicts_the_least_recently_used() -> None:
    affinity = fleet(a="xy", b="zw")
    affinity.assigned("a", ["x"])
    affinity.reported("c", ["p", "q"])
    assert affinity.order({"a": 0, "b": 0, "c": 0}, ["v"]) == ["c", "a", "b"]


def test_a_holder_of_all_adapters_or_else_of_most() -> None:
    affinity = fleet(a="x", b="xy", c="y")
    assert affinity.order({"a": 0, "b": 1, "c": 0}, ["x", "y"])[0] == "b"
    assert affinity.order({"a": 0, "b": 0, "c": 0}, ["x", "z"])[0] == "a"


def test_the_least_recently_used_adapter_is_evicted() -> None:
    affinity = fleet(a="xyx")
    affinity.assigned("a", ["z"])
    assert affinity.holds("a", ["x", "z"]) and not affinity.holds("a", ["y"])


def test_reports_count_until_an_image_is_assigned() -> None:
    affinity = fleet(a="x")
    affinity.reported("a", ["y"])
    affinity.reported("b", ["y"])
    assert affinity.holds("a", ["x"]) and affinity.holds("b", ["y"])
    affinity.keep_only(["b"])
    assert not affinity.holds("a", ["x"])


def test_most_images_find_their_adapter() -> None:
    """Eight adapters of skewed popularity, four replicas of two slots, at 70 % of the load."""
    rnd, affinity = random.Random(1), Affinity(slots=2)
    weights = [1 / (n + 1) for n in range(8)]
    busy: dict[str, list[float]] = {r: [] for r in "abcd"}
    now, found, images = 0.0, 0, 3000
    for _ in range(images):
        now += rnd.expovariate(0.7 * 4)
        (adapter,) = rnd.choices("stuvwxyz", weights)
        for ends in busy.values():
            ends[:] = [end for end in ends if end > now]
        replica = affinity.order({r: len(ends) for r, ends in busy.items()}, [adapter])[0]
        found += affinity.holds(replica, [adapter])
        affinity.assigned(replica, [adapter])
        busy[replica].append(max([now, *busy[replica]]) + 1)
    assert found / images > 0.85
