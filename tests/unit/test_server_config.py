"""The server's command line, and the runtime folder of its sockets."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from inference_server.config import (
    EMBEDDED_MODEL,
    EMBEDDED_TURBO,
    Config,
    OnBadAdapter,
    parse_arguments,
)
from inference_server.model_parts import ModelParts
from inference_server.network import Network
from inference_server.runtime_dir import RuntimeDirError, claim
from tests.support.other_user import OTHER_UID, needs_root
from wuliart_process.sockets import default_runtime_dir


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WULIART_RUNTIME_DIR", "XDG_RUNTIME_DIR", "HOME"):
        monkeypatch.delenv(name, raising=False)


def test_the_parts_of_a_model() -> None:
    assert parse_arguments([]).parts == ModelParts()
    options = ["--text-encoder", "a.safetensors", "--vae", "b.safetensors", "--components", "c"]
    parts = parse_arguments(["--model", "m.safetensors", *options]).parts
    assert parts == ModelParts(Path("a.safetensors"), Path("b.safetensors"), Path("c"))
    assert parts.given == {"text_encoder": Path("a.safetensors"), "vae": Path("b.safetensors")}


def test_defaults() -> None:
    config = parse_arguments([])
    assert config == Config(runtime_dir=Path(f"/tmp/wuliart-{os.geteuid()}"))
    assert (config.model, config.embedded) == (EMBEDDED_MODEL, True)
    assert (config.network, config.device, config.dtype) == (Network(), "auto", "auto")
    assert (config.slots, config.max_rank, config.queue, config.grace) == (None, None, 64, 30.0)
    assert config.turbo_lora == EMBEDDED_TURBO
    assert EMBEDDED_TURBO.is_file()
    assert config.log_level == "INFO"
    assert (config.pinned_adapters, config.on_bad_adapter) == ((), OnBadAdapter.FAIL)


def test_everything_can_be_set(tmp_path: Path) -> None:
    arguments = [
        "--model", "/m", "--turbo-lora", "/t", "--listen", "unix:/s", "--runtime-dir",
        str(tmp_path), "--device", "cuda:1", "--dtype", "bfloat16", "--slots", "8", "--max-rank",
        "64", "--queue", "3", "--grace", "0.5", "--log-level", "DEBUG", "--pin-adapter", "ink",
        "--pin-adapter", "sub/水墨", "--pin-adapter", "ink", "--on-bad-adapter", "skip",
    ]  # fmt: skip
    config = parse_arguments(arguments)
    assert config == Config(
        model=Path("/m"), turbo_lora=Path("/t"), network=Network("unix:/s"), runtime_dir=tmp_path,
        device="cuda:1", dtype="bfloat16", slots=8, max_rank=64, queue=3, grace=0.5,
        log_level="DEBUG", pinned_adapters=("ink", "sub/水墨"), on_bad_adapter=OnBadAdapter.SKIP,
    )  # fmt: skip
    assert not config.embedded
    assert parse_arguments(["--model", "/m"]).turbo_lora is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen", "0.0.0.0:1", "--insecure"],
        ["--listen", "0.0.0.0:1", "--tls-cert", "/c", "--tls-key", "/k", "--tokens", "/t"],
        ["--listen", "0.0.0.0:1", "--tls-cert", "/c", "--tls-key", "/k", "--tls-client-ca", "/a"],
        ["--listen", "127.8.9.1:1"],
        ["--listen", "[::1]:1"],
        ["--listen", "localhost:1"],
        ["--listen", "unix:/s"],
    ],
    ids=" ".join,
)
def test_a_local_or_protected_address_is_accepted(arguments: list[str]) -> None:
    assert parse_arguments(arguments).network.listen == arguments[1]


def test_the_runtime_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_arguments(["--runtime-dir", "run"]).runtime_dir == tmp_path / "run"


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_runtime_dir() == Path(f"/tmp/wuliart-{os.geteuid()}")
    # Short, however deep pytest's own folders lie: a socket's path has 100 bytes.
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        monkeypatch.setenv("HOME", home)
        assert default_runtime_dir() == Path(home) / ".local/state/wuliart/run"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert default_runtime_dir() == Path("/run/user/7/wuliart")
    monkeypatch.setenv("WULIART_RUNTIME_DIR", "/run/mine")
    assert default_runtime_dir() == Path("/run/mine")
    assert parse_arguments([]).runtime_dir == Path("/run/mine")
    monkeypatch.setenv("WULIART_RUNTIME_DIR", "")
    assert default_runtime_dir() == Path("/run/user/7/wuliart")


def test_a_home_that_is_not_private_or_too_deep_is_not_used(tmp_path: Path) -> None:
    fallback = Path(f"/tmp/wuliart-{os.geteuid()}")
    tmp_path.chmod(0o777)
    homes = ["relative", "/nowhere", str(tmp_path), str(tmp_path / ("x" * 90))]
    (tmp_path / ("x" * 90)).mkdir()
    for home in homes:
        assert default_runtime_dir({"HOME": home}) == fallback


BAD_ARGUMENTS = [
    (["--slots", "0"], "--slots must be at least 1"),
    (["--slots", "many"], "--slots"),
    (["--max-rank", "0"], "--max-rank must be at least 1"),
    (["--queue", "0"], "--queue must be at least 1"),
    (["--grace", "-1"], "--grace"),
    (["--grace", "nan"], "--grace"),
    (["--dtype", "float16"], "--dtype"),
    (["--log-level", "LOUD"], "--log-level"),
    (["--runtime-dir", "/tmp/" + "x" * 100], "is too long for a Unix socket"),
    (["--on-bad-adapter", "ignore"], "--on-bad-adapter"),
    (["--slots", "2", "--pin-adapter", "a", "--pin-adapter", "b"], "use --slots 3 or more"),
    (["--slots", "5", "--pin-adapter", ""], "--pin-adapter needs a name"),
    (["--tls-cert", "/c"], "--tls-cert and --tls-key belong together"),
    (["--tls-client-ca", "/c"], "--tls-client-ca needs --tls-cert"),
    (["--per-client", "0"], "--per-client must be at least 1"),
    (["--per-minute", "0"], "--per-minute must be at least 1"),
    (["--listen", "0.0.0.0:1"], "no TLS (--tls-cert, --tls-key) and no tokens (--tokens)"),
    (["--listen", "[::]:1", "--tokens", "/t"], "has no TLS (--tls-cert, --tls-key); add"),
    (["--listen", "host:1", "--tls-cert", "/c", "--tls-key", "/k"], "has no tokens"),
    (["--no-such-option"], "--no-such-option"),
    (["stray"], "stray"),
]


@pytest.mark.parametrize(
    ("arguments", "complaint"), BAD_ARGUMENTS, ids=[" ".join(a)[:25] for a, _ in BAD_ARGUMENTS]
)
def test_a_bad_argument_exits_with_2_and_is_named(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith("wuliart-server: error: ")
    assert complaint in last


def test_a_bad_argument_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--slots", "0"])
    assert len(capsys.readouterr().err.splitlines()) == 1


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        lock = claim(tmp_path / "deep" / "run")
    finally:
        os.umask(old)
    assert mode(tmp_path / "deep" / "run") == 0o700
    assert mode(tmp_path / "deep" / "run" / "server.lock") == 0o600
    assert not os.get_inheritable(lock)
    os.close(lock)


@pytest.mark.parametrize("open_to_others", [0o755, 0o711, 0o770, 0o777])
def test_a_folder_open_to_others_is_refused_and_not_changed(
    tmp_path: Path, open_to_others: int
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(open_to_others)
    with pytest.raises(RuntimeDirError, match=r"lets other users in .*chmod 700 .*--runtime-dir"):
        claim(folder)
    assert mode(folder) == open_to_others


def test_a_folder_shared_by_all_users_is_refused_and_not_changed(tmp_path: Path) -> None:
    """--runtime-dir /tmp, started by root, must not close /tmp to all other users."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    with pytest.raises(RuntimeDirError, match=r"shared by all users.*--runtime-dir"):
        claim(folder)
    assert mode(folder) == 0o1777


def test_a_link_is_refused_and_its_target_not_changed(tmp_path: Path) -> None:
    """Another user can put a link where the default folder in /tmp would be."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc").chmod(0o755)
    (tmp_path / "link").symlink_to("etc")
    with pytest.raises(RuntimeDirError, match="link is a symbolic link; name another"):
        claim(tmp_path / "link")
    assert mode(tmp_path / "etc") == 0o755
    assert list((tmp_path / "etc").iterdir()) == []


def test_a_parent_that_others_can_write_is_refused(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    (above / "run").mkdir(mode=0o700)
    os.close(claim(above / "run"))
    above.chmod(0o777)
    with pytest.raises(RuntimeDirError, match=r"above, which holds .*can be written by other user"):
        claim(above / "run")
    above.chmod(0o1777)
    os.close(claim(above / "run"))


def test_links_among_the_parents_are_followed_and_their_targets_checked(tmp_path: Path) -> None:
    (tmp_path / "real/run").mkdir(mode=0o700, parents=True)
    (tmp_path / "link").symlink_to("real/../real")
    os.close(claim(tmp_path / "link/run"))
    (tmp_path / "real").chmod(0o777)
    with pytest.raises(RuntimeDirError, match="real, which holds"):
        claim(tmp_path / "link/run")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RuntimeDirError, match="cannot use runtime folder"):
        claim(tmp_path / "loop/run")


def test_a_second_claim_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    with pytest.raises(RuntimeDirError, match="another server uses runtime folder"):
        claim(tmp_path)
    os.close(lock)
    os.close(claim(tmp_path))


def test_another_process_holds_its_claim_until_it_ends(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from inference_server.runtime_dir import claim\n"
        f"claim(Path({str(tmp_path)!r})); print('claimed', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(RuntimeDirError, match="another server"):
            claim(tmp_path)
        other.kill()
    os.close(claim(tmp_path))


@needs_root
@pytest.mark.parametrize("part", ["run", "above"])
def test_another_users_folder_is_refused(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "above/run"
    folder.mkdir(mode=0o700, parents=True)
    os.chown(folder if part == "run" else folder.parent, OTHER_UID, OTHER_UID)
    with pytest.raises(
        RuntimeDirError, match=f"{part}.* belongs to user {OTHER_UID}.*--runtime-dir"
    ):
        claim(folder)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeDirError, match=r"cannot use runtime folder .*file: File exists"):
        claim(tmp_path / "file")
    with pytest.raises(RuntimeDirError, match="cannot use runtime folder"):
        claim(tmp_path / "file" / "below")
