"""The head gate admits one request at a time, with a declared length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wuliart_web.guard.head_gate import MAX_HEAD_BYTES, HeadGate

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_a_request_passes_whatever_its_pieces(cuts: list[int]) -> None:
    gate, given, passed, at = HeadGate(), POST + b"12345", b"", 0
    for size in [*cuts, 1000]:
        piece, at = given[at : at + size], at + size
        if piece:
            taken = gate.take(piece, busy=bool(passed) and len(passed) == len(given))
            assert taken is not None
            passed += taken
    assert passed == given
    # The next one, once it is answered.
    assert gate.take(GET, busy=False) == GET


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\nTRANSFER-encoding : gzip\n\n", 411),
        (b"CONNECT /healthz HTTP/1.1\r\n\r\n", 501),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 501),
        (b"\x16\x03\x01\x02\x00\x01\n\n", 501),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
    ],
)
def test_rejected_heads(data: bytes, status: int) -> None:
    gate = HeadGate()
    assert gate.take(data, busy=False) is None
    assert gate.rejected == status


@pytest.mark.parametrize("data", [GET + GET, POST + b"123456", GET + b"x"])
def test_pipelined_bytes_end_the_connection(data: bytes) -> None:
    gate = HeadGate()
    assert gate.take(data, busy=False) is None and not gate.rejected


def test_nothing_is_read_while_a_request_is_answered() -> None:
    gate = HeadGate()
    assert gate.take(GET, busy=False) == GET
    assert gate.take(b"x", busy=True) is None
