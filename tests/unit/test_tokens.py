"""The token file: what may stand in it, whose token it is, and that it is read again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wuliart.contract import tokens
from wuliart.contract.exposure import reaches_strangers
from wuliart.contract.tokens import TokenFile, TokenFileError, bearer

ANN, BOB, NEW = "a" * 16, "b" * 40, "n" * 20


def written(folder: Path, text: str) -> Path:
    path = folder / "tokens"
    path.write_text(text, encoding="utf-8")
    return path


def test_names_of_tokens(tmp_path: Path) -> None:
    file = TokenFile(written(tmp_path, f"# who\n\nann {ANN}\n bob\t{BOB}\nann {NEW}\n"))
    assert [file.name_of(t) for t in (ANN, BOB, NEW)] == ["ann", "bob", "ann"]
    for wrong in ("", "a" * 15, "a" * 17, ANN.upper(), f"{ANN} ", "ann", "é" * 16, "\udc80" * 16):
        assert file.name_of(wrong) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no token"),
        ("# only this\n", "no token"),
        ("ann\n", "line 1"),
        (f"ann {ANN} more\n", "line 1"),
        (f"ok {ANN}\nänn {BOB}\n", "line 2"),
        ("ann short\n", "token of ann must have 16"),
        ("ann " + "x" * 1025, "token of ann"),
    ],
)
def test_a_bad_file_is_refused_without_saying_a_token(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(TokenFileError, match=complaint) as caught:
        TokenFile(written(tmp_path, text))
    assert all(secret not in str(caught.value) for secret in (ANN, BOB, "short"))


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="cannot read"):
        TokenFile(tmp_path / "tokens")
    (tmp_path / "tokens").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenFileError, match="cannot read"):
        TokenFile(tmp_path / "tokens")


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_LOOK_SECONDS", 0.0)
    file = TokenFile(written(tmp_path, f"ann {ANN}\n"))
    written(tmp_path, f"bob {BOB}\n")
    assert (file.name_of(ANN), file.name_of(BOB)) == (None, "bob")
    written(tmp_path, "bob\n")
    assert file.name_of(BOB) == "bob"
    (tmp_path / "tokens").unlink()
    assert file.name_of(BOB) == "bob"
    # As Kubernetes and careful editors do it: another file in its place.
    aside = tmp_path / "aside"
    aside.write_text(f"new {NEW}\n")
    os.replace(aside, tmp_path / "tokens")  # noqa: PTH105
    assert (file.name_of(NEW), file.name_of(BOB)) == ("new", None)


@given(st.text())
def test_no_text_is_a_token_by_accident(text: str) -> None:
    assert bearer(text) == "" or text[:7].lower() == "bearer "


def test_bearer_headers() -> None:
    assert bearer(f"Bearer {ANN}") == bearer(f"bearer   {ANN} ") == ANN
    assert bearer("") == bearer(ANN) == bearer(f"Basic {ANN}") == bearer("Bearer") == ""


@pytest.mark.parametrize(
    ("address", "reachable"),
    [
        ("127.0.0.1:1", False), ("127.9.9.9:1", False), ("[::1]:1", False), ("localhost:1", False),
        ("unix:/s", False), ("unix-abstract:s", False), ("0.0.0.0:1", True), ("[::]:1", True),
        ("192.168.1.2:1", True), ("10.0.0.1:1", True), ("myhost:1", True), (":1", True),
        ("localhost.example.org:1", True),
    ],
)  # fmt: skip
def test_which_addresses_strangers_reach(address: str, reachable: bool) -> None:
    assert reaches_strangers(address) is reachable
