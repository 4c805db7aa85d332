"""Turns of clients: whoever asks for little is not kept waiting by whoever asks for much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.scheduler.fair_queue import Line


def line_of(*jobs: str) -> Line[str]:
    """Jobs named after their client, as a1, a2, b1, in the order they come."""
    line: Line[str] = Line()
    for job in jobs:
        line.join(job, job[0])
    return line


def test_one_client_alone_is_served_in_order() -> None:
    assert list(line_of("a1", "a2", "a3")) == ["a1", "a2", "a3"]


def test_one_image_waits_for_one_of_a_hundred() -> None:
    line = line_of(*(f"a{n}" for n in range(100)), "b1")
    assert list(line)[:3] == ["a0", "b1", "a1"]


def test_clients_take_turns() -> None:
    line = line_of("a1", "a2", "a3", "b1", "b2", "c1", "b3")
    assert list(line) == ["a1", "b1", "c1", "a2", "b2", "a3", "b3"]


def test_turns_go_on_where_the_line_stands() -> None:
    line = line_of(*(f"a{n}" for n in range(10)))
    for n in range(5):
        line.take(f"a{n}")
    line.join("b1", "b")
    line.join("b2", "b")
    assert list(line)[:4] == ["b1", "a5", "b2", "a6"]


def test_who_asks_for_one_at_a_time_is_overtaken_by_nobody() -> None:
    """However many others come and have had nothing yet: a full queue has its length."""
    line = line_of("a1", *(f"{client}1" for client in "bcdefg"))
    line.take("a1")
    line.join("a2", "a")
    served = []
    for stranger in "hijklmnopq":
        served.append(next(iter(line)))
        line.take(served[-1])
        line.join(f"{stranger}1", stranger)
    assert served[:8] == ["b1", "c1", "d1", "e1", "f1", "g1", "a2", "h1"]


def test_strangers_overtake_the_next_of_many_only_until_somebody_has_had_a_turn() -> None:
    line = line_of(*(f"a{n}" for n in range(10)))
    line.take("a0")
    line.join("b1", "b")
    line.join("c1", "c")
    assert list(line)[:3] == ["b1", "c1", "a1"]
    line.take("b1")
    line.join("d1", "d")
    assert list(line)[:4] == ["c1", "a1", "d1", "a2"]


def test_two_who_always_ask_again_take_turns() -> None:
    line, served = line_of("a0", *(f"b{n}" for n in range(20))), ""
    for n in range(1, 9):
        job = next(iter(line))
        line.take(job)
        served += job[0]
        if job[0] == "a":
            line.join(f"a{n}", "a")
    assert served.count("a") == 4 and "bbb" not in served and "aa" not in served


def test_who_is_taken_from_the_back_has_had_a_turn() -> None:
    line = line_of(*(f"a{n}" for n in range(10)))
    line.take("a9")
    line.join("b1", "b")
    assert list(line)[:3] == ["b1", "a0", "a1"]


def test_what_was_given_up_is_not_held_against_anybody() -> None:
    line = line_of(*(f"a{n}" for n in range(10)), "b0", "b1")
    for n in range(10):
        line.leave(f"a{n}")
    line.join("a", "a")
    assert list(line) == ["b0", "a", "b1"]


def test_leaving() -> None:
    line = line_of("a1", "b1", "a2")
    assert "b1" in line and line.waits("a")
    line.leave("b1")
    assert "b1" not in line and (len(line), line.waits("b")) == (2, False)
    with pytest.raises(ValueError, match="does not wait"):
        line.leave("b1")
    line.clear()
    assert not list(line)


JOBS = st.lists(st.sampled_from(["abc"[n] for n in (0, 0, 0, 1, 2)]), max_size=40)


@given(JOBS, st.data())
def test_between_two_turns_of_one_client_nobody_else_has_more_than_two(
    clients: list[str], data: st.DataObject
) -> None:
    line: Line[tuple[str, int]] = Line()
    for number, client in enumerate(clients):
        line.join((client, number), client)
        if len(line) and data.draw(st.booleans()):
            line.take(next(iter(line)))
    order = list(line)
    for client in set(clients):
        own = [number for name, number in order if name == client]
        assert own == sorted(own), "one client's jobs keep their order"
    last: dict[str, int] = {}
    for index, (client, _) in enumerate(order):
        between = [name for name, _ in order[last.get(client, -1) + 1 : index]]
        assert all(between.count(name) <= 2 for name in set(between))
        last[client] = index
