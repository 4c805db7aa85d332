"""The fair queue: a client with few requests does not wait for one with many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.scheduler.fair_queue import FairQueue


def queue_of(*items: str) -> FairQueue[str]:
    """Returns a queue of items named after their client (a1, a2, b1), in order of arrival."""
    queue: FairQueue[str] = FairQueue()
    for item in items:
        queue.join(item, item[0])
    return queue


def test_one_client_alone_is_served_in_order() -> None:
    assert list(queue_of("a1", "a2", "a3")) == ["a1", "a2", "a3"]


def test_one_image_waits_for_one_of_a_hundred() -> None:
    queue = queue_of(*(f"a{n}" for n in range(100)), "b1")
    assert list(queue)[:3] == ["a0", "b1", "a1"]


def test_clients_take_turns() -> None:
    queue = queue_of("a1", "a2", "a3", "b1", "b2", "c1", "b3")
    assert list(queue) == ["a1", "b1", "c1", "a2", "b2", "a3", "b3"]


def test_a_new_client_is_served_next_after_a_long_run_of_one() -> None:
    queue = queue_of(*(f"a{n}" for n in range(10)))
    for n in range(5):
        queue.take(f"a{n}")
    queue.join("b1", "b")
    queue.join("b2", "b")
    assert list(queue)[:4] == ["b1", "a5", "b2", "a6"]


def test_new_clients_do_not_overtake_one_that_sends_one_request_at_a_time() -> None:
    """Its wait is the length of the queue, however many new clients arrive meanwhile."""
    queue = queue_of("a1", *(f"{client}1" for client in "bcdefg"))
    queue.take("a1")
    queue.join("a2", "a")
    served = []
    for stranger in "hijklmnopq":
        served.append(next(iter(queue)))
        queue.take(served[-1])
        queue.join(f"{stranger}1", stranger)
    assert served[:8] == ["b1", "c1", "d1", "e1", "f1", "g1", "a2", "h1"]


def test_new_clients_go_before_the_next_of_many_until_the_next_turn() -> None:
    queue = queue_of(*(f"a{n}" for n in range(10)))
    queue.take("a0")
    queue.join("b1", "b")
    queue.join("c1", "c")
    assert list(queue)[:3] == ["b1", "c1", "a1"]
    queue.take("b1")
    queue.join("d1", "d")
    assert list(queue)[:4] == ["c1", "a1", "d1", "a2"]


def test_two_clients_that_always_have_a_request_alternate() -> None:
    queue, served = queue_of("a0", *(f"b{n}" for n in range(20))), ""
    for n in range(1, 9):
        item = next(iter(queue))
        queue.take(item)
        served += item[0]
        if item[0] == "a":
            queue.join(f"a{n}", "a")
    assert served.count("a") == 4 and "bbb" not in served and "aa" not in served


def test_taking_an_item_out_of_order_uses_the_clients_turn() -> None:
    queue = queue_of(*(f"a{n}" for n in range(10)))
    queue.take("a9")
    queue.join("b1", "b")
    assert list(queue)[:3] == ["b1", "a0", "a1"]


def test_items_that_leave_do_not_use_a_turn() -> None:
    queue = queue_of(*(f"a{n}" for n in range(10)), "b0", "b1")
    for n in range(10):
        queue.leave(f"a{n}")
    queue.join("a", "a")
    assert list(queue) == ["b0", "a", "b1"]


def test_leaving() -> None:
    queue = queue_of("a1", "b1", "a2")
    assert "b1" in queue and queue.has_client("a")
    queue.leave("b1")
    assert "b1" not in queue and (len(queue), queue.has_client("b")) == (2, False)
    with pytest.raises(ValueError, match="not in the queue"):
        queue.leave("b1")
    queue.clear()
    assert not list(queue)


CLIENTS = st.lists(st.sampled_from(["abc"[n] for n in (0, 0, 0, 1, 2)]), max_size=40)


@given(CLIENTS, st.data())
def test_between_two_turns_of_one_client_no_other_has_more_than_two(
    clients: list[str], data: st.DataObject
) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, client in enumerate(clients):
        queue.join((client, number), client)
        if len(queue) and data.draw(st.booleans()):
            queue.take(next(iter(queue)))
    order = list(queue)
    for client in set(clients):
        own = [number for name, number in order if name == client]
        assert own == sorted(own), "the items of one client keep their order"
    last: dict[str, int] = {}
    for index, (client, _) in enumerate(order):
        between = [name for name, _ in order[last.get(client, -1) + 1 : index]]
        assert all(between.count(name) <= 2 for name in set(between))
        last[client] = index
