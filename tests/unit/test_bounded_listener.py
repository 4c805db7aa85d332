"""The listener that the page and the metrics port share."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from wuliart_process import bounded_listener
from wuliart_process.bounded_listener import BoundedListener


@pytest.fixture
def listener() -> Iterator[BoundedListener]:
    with BoundedListener("127.0.0.1", 0, 2) as listener:
        listener.listen(8)
        yield listener


def connect(listener: BoundedListener) -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.port), 5)


def test_a_connection_beyond_the_limit_is_closed_at_once(listener: BoundedListener) -> None:
    clients = [connect(listener) for _ in range(3)]
    accepted = [listener.accept()[0] for _ in range(2)]
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert clients[2].recv(1) == b"" and listener.open == 2
    accepted[0].close()
    clients.append(connect(listener))
    accepted.append(listener.accept()[0])
    for each in [*clients, *accepted]:
        each.close()
    assert listener.open == 0


def test_old_connections_are_shut_down_and_counted_until_closed(listener: BoundedListener) -> None:
    with connect(listener) as client:
        accepted, _ = listener.accept()
        listener.shut_down_older_than(60)
        client.sendall(b"x")
        assert accepted.recv(1) == b"x"
        listener.shut_down_older_than(-1)
        assert accepted.recv(1) == b"" and client.recv(1) == b"" and listener.open == 1
        accepted.close()
        assert listener.open == 0


def test_a_spare_descriptor_that_another_thread_took_is_not_closed_twice(
    listener: BoundedListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number belongs to another file by then, which must stay open."""
    spare, another = listener._spare, os.open(os.devnull, os.O_RDONLY)

    def take_it() -> int:
        os.dup2(another, spare)
        raise OSError(errno.EMFILE, "no descriptor is left")

    with connect(listener), monkeypatch.context() as patch:
        patch.setattr(bounded_listener, "_open_spare", take_it)
        assert listener._close_one()
    listener.close()
    os.fstat(spare)  # still open
    os.close(spare)
    os.close(another)
