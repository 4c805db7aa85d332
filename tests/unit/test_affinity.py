"""Which replica generates: a holder of the adapters if it is free enough, else who has least to
do.
"""

from __future__ import annotations

import random

from inference_server.ray_app.affinity import PATIENCE_BUSY, PATIENCE_IDLE, Affinity


def fleet(**held: str) -> Affinity:
    """Replicas by name, with the adapters that they were given."""
    affinity = Affinity(slots=2)
    for replica, adapters in held.items():
        for name in adapters:
            affinity.given(replica, [name])
    return affinity


def test_without_adapters_the_least_loaded_draws() -> None:
    affinity = fleet(a="xy", b="")
    assert affinity.order({"a": 1, "b": 2, "c": 0}, []) == ["c", "a", "b"]


def test_a_holder_is_preferred_while_it_is_free_enough() -> None:
    affinity = fleet(a="x", b="y")
    assert affinity.order({"a": PATIENCE_IDLE, "b": 0}, ["x"])[0] == "a"
    assert affinity.order({"a": PATIENCE_IDLE + 1, "b": 0}, ["x"])[0] == "b"
    assert affinity.order({"a": 1 + PATIENCE_BUSY, "b": 1}, ["x"])[0] == "a"
    assert affinity.order({"a": 2 + PATIENCE_BUSY, "b": 1}, ["x"])[0] == "b"


def test_of_two_holders_the_one_with_less_to_do() -> None:
    affinity = fleet(a="x", b="x")
    assert affinity.order({"a": 2, "b": 1}, ["x"])[0] == "b"


def test_a_cold_adapter_goes_where_there_is_an_empty_slot() -> None:
    affinity = fleet(a="xy", b="x", c="xy")
    assert affinity.order({"a": 0, "b": 0, "c": 0}, ["z"])[0] == "b"


def test_a_cold_adapter_takes_the_place_of_what_nobody_has_wanted_for_longest() -> None:
    affinity = fleet(a="xy", b="zw")
    affinity.given("a", ["x"])
    affinity.told("c", ["p", "q"])
    assert affinity.order({"a": 0, "b": 0, "c": 0}, ["v"]) == ["c", "a", "b"]


def test_all_adapters_or_else_as_many_as_possible() -> None:
    affinity = fleet(a="x", b="xy", c="y")
    assert affinity.order({"a": 0, "b": 1, "c": 0}, ["x", "y"])[0] == "b"
    assert affinity.order({"a": 0, "b": 0, "c": 0}, ["x", "z"])[0] == "a"


def test_what_is_used_stays_and_what_is_not_goes() -> None:
    affinity = fleet(a="xyx")
    affinity.given("a", ["z"])
    assert affinity.holds("a", ["x", "z"]) and not affinity.holds("a", ["y"])


def test_what_a_replica_says_counts_until_something_was_given_to_it() -> None:
    affinity = fleet(a="x")
    affinity.told("a", ["y"])
    affinity.told("b", ["y"])
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
        affinity.given(replica, [adapter])
        busy[replica].append(max([now, *busy[replica]]) + 1)
    assert found / images > 0.85
