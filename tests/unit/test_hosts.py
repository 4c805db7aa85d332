"""`Host` headers: literal addresses and allowed names are answered, every other name is not."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wuliart_process.allowed_hosts import allowed


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:7860",
        "localhost.",
        "localhost.:80",
        "127.0.0.1",
        "127.8.9.10:9090",
        "192.168.1.7:80",
        "[::1]",
        "[::1]:9090",
        "[2001:DB8::1]:443",
        "[::ffff:127.0.0.1]",
        "images.example",
        "Images.Example.:443",
    ],
)
def test_literal_addresses_localhost_and_allowed_names(host: str) -> None:
    assert allowed(host, {"images.example"})


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:7860",
        "a.images.example",
        "images.example.evil.example",
        "a.localhost",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io:80",
        "127.1",
        "0177.0.0.1",
        "0x7f000001",
        "2130706433",
        "::1",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[evil.example]",
        "[127.0.0.1]",
        "[fe80::1%25eth0]",
        "localhost:",
        "localhost:port",
        "localhost:80:80",
        "localhost..",
        ".localhost",
        " localhost",
        "localhost\n",
        "localhost@evil.example",
        "localhost/evil",
        "localhost, evil.example",
        "local\u017fhost",
        "*",
        ".",
    ],
)
def test_every_other_host_is_rejected(host: str) -> None:
    assert not allowed(host, {"images.example"})


def test_an_asterisk_allows_every_name_but_no_malformed_one() -> None:
    assert allowed("evil.example:1", ["*"])
    assert not allowed("", ["*"])
    assert not allowed("evil.example:x", ["*"])


def test_allowed_names_are_compared_without_case_and_trailing_dot() -> None:
    assert allowed("images.example", ["IMAGES.example."])


@given(st.ip_addresses(), st.none() | st.integers(0, 65535))
def test_every_literal_address_is_allowed(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int | None
) -> None:
    host = str(address) if address.version == 4 else f"[{address.compressed}]"
    assert allowed(host if port is None else f"{host}:{port}", ())


@given(st.text(max_size=80))
def test_no_text_is_allowed_but_localhost_and_literals(host: str) -> None:
    if not allowed(host, ()):
        return
    name = host.lower()
    bare = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if bare.removesuffix(".") != "localhost":
        ipaddress.ip_address(bare.removesuffix("."))
