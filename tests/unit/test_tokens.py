"""The token file: its format, its names, its permissions, and that it is read again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wuliart_process import tokens
from wuliart_process.exposure import reaches_other_machines
from wuliart_process.tokens import TokenFile, TokenFileError, bearer

ANN, BOB, NEW = "a" * 16, "b" * 40, "n" * 20


def written(folder: Path, text: str) -> Path:
    path = folder / "tokens"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
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
        ("ann " + "x" * 1025 + "\n", "token of ann"),
        (f"ann {ANN}", "no token .*line 1 does not end with a newline"),
    ],
)
def test_the_error_for_a_bad_file_contains_no_token(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(TokenFileError, match=complaint) as caught:
        TokenFile(written(tmp_path, text))
    assert all(secret not in str(caught.value) for secret in (ANN, BOB, "short"))


def test_a_missing_or_binary_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="cannot read"):
        TokenFile(tmp_path / "tokens")
    (tmp_path / "tokens").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenFileError, match="cannot read"):
        TokenFile(tmp_path / "tokens")


@pytest.fixture
def reads_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_READ_SECONDS", 0.0)


@pytest.mark.usefixtures("reads_always")
def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = TokenFile(written(tmp_path, f"ann {ANN}\n"))
    written(tmp_path, f"bob {BOB}\n")
    assert (file.name_of(ANN), file.name_of(BOB)) == (None, "bob")
    # As Kubernetes and careful editors do it: another file in its place.
    aside = tmp_path / "aside"
    aside.write_text(f"new {NEW}\n")
    os.replace(aside, tmp_path / "tokens")  # noqa: PTH105
    assert (file.name_of(NEW), file.name_of(BOB)) == ("new", None)


@pytest.mark.usefixtures("reads_always")
@pytest.mark.parametrize(
    "content",
    [b"", b"# nobody\n", b"bob\n", f"bob {BOB}\nann short\n".encode(), b"\xff\n", None],
    ids=["emptied", "comments", "misspelt", "misspelt elsewhere", "not text", "deleted"],
)
def test_no_token_is_valid_while_the_file_cannot_be_used(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, f"bob {BOB}\n")
    file = TokenFile(path)
    assert file.name_of(BOB) == "bob"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert [file.name_of(BOB) for _ in range(5)] == [None] * 5
    said = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(said) == 1 and BOB not in said[0]
    written(tmp_path, f"bob {BOB}\n")
    assert file.name_of(BOB) == "bob"


@pytest.mark.usefixtures("reads_always")
def test_a_last_line_without_newline_is_no_token(tmp_path: Path) -> None:
    path = written(tmp_path, f"ann {ANN}\n")
    file = TokenFile(path)
    with path.open("a") as growing:
        for part, valid in ((f"bob {BOB[:20]}", None), (BOB[20:], None), ("\n", "bob")):
            growing.write(part)
            growing.flush()
            assert file.name_of(BOB) == valid
            assert file.name_of(BOB[:20]) is None
            assert file.name_of(ANN) == "ann"


@pytest.mark.usefixtures("reads_always")
def test_a_change_with_equal_size_and_times_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path, f"ann {ANN}\n")
    file = TokenFile(path)
    before = path.stat()
    written(tmp_path, f"ann {'z' * 16}\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.name_of(ANN) is None


def test_a_change_takes_effect_within_a_second(tmp_path: Path) -> None:
    file = TokenFile(written(tmp_path, f"ann {ANN}\n"))
    assert file.name_of(ANN) == "ann"
    written(tmp_path, "")
    time.sleep(1.0)
    assert file.name_of(ANN) is None


@pytest.mark.usefixtures("reads_always")
@pytest.mark.parametrize("mode", [0o666, 0o622, 0o660, 0o620, 0o602])
def test_a_file_that_others_can_write_is_an_error(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, f"ann {ANN}\n")
    file = TokenFile(path)
    path.chmod(mode)
    assert file.name_of(ANN) is None
    with pytest.raises(TokenFileError, match=f"mode {mode:04o}.*chmod 600"):
        TokenFile(path)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o440, 0), (0o444, 1), (0o644, 1)])
def test_a_file_that_others_can_read_logs_a_warning(
    tmp_path: Path, mode: int, warned: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, f"ann {ANN}\n")
    path.chmod(mode)
    assert TokenFile(path).name_of(ANN) == "ann"
    assert len(caplog.records) == warned


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, f"ann {ANN}\n")
    os.chown(path, 12345, -1)
    with pytest.raises(TokenFileError, match="belongs to user 12345"):
        TokenFile(path)


def test_anything_but_a_small_regular_file_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(TokenFileError, match=r"not a regular file|a directory"):
            TokenFile(path)
    with pytest.raises(TokenFileError, match="larger than"):
        TokenFile(written(tmp_path, "#" * (1 << 20) + f"\nann {ANN}\n"))


@given(st.text())
def test_arbitrary_text_is_no_token(text: str) -> None:
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
def test_which_addresses_other_machines_reach(address: str, reachable: bool) -> None:
    assert reaches_other_machines(address) is reachable
