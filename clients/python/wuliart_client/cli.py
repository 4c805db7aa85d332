"""The command `wuliart`: its arguments and exit codes.

Exit codes: 0 done; 1 failed, with one line on standard error; 2 wrong usage; 130 interrupted; 141
the reader of standard output has gone.
"""

from __future__ import annotations

import argparse
import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from wuliart_client import cli_adapters, cli_generate, cli_info
from wuliart_client._channel import (
    DEFAULT_TARGET,
    TARGET_VARIABLE,
    TLS,
    TLS_CA_VARIABLE,
    TOKEN_VARIABLE,
)
from wuliart_client._client import Client
from wuliart_client._exceptions import WuliArtError
from wuliart_client.cli_terminal import Terminal
from wuliart_contract.recipe import RecipeError
from wuliart_process.standard_streams import standard_streams

Run = Callable[[Client, argparse.Namespace, Terminal], None]

FAILED: Final = 1
INTERRUPTED: Final = 130

MAX_TOKEN_BYTES: Final = 4096
"""Size limit of a token file."""


def build_parser() -> argparse.ArgumentParser:
    """The parser; `run` in its result is the function of the chosen command."""
    # On the command and on each subcommand, so that the options may stand before or after the
    # subcommand. Without defaults, because the subcommand's would overwrite values given before.
    target = argparse.ArgumentParser(add_help=False)
    target.add_argument(
        "--target",
        default=argparse.SUPPRESS,
        help=f"HOST:PORT or unix:PATH (default: ${TARGET_VARIABLE}, else {DEFAULT_TARGET})",
    )
    # A token on the command line would be visible to every user of this machine.
    target.add_argument(
        "--token-file",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help=f"file with the token to send (default: ${TOKEN_VARIABLE}, else none)",
    )
    target.add_argument("--tls", action="store_true", default=argparse.SUPPRESS, help="use TLS")
    for name, text in (
        ("ca", f"authority of the server's certificate, PEM (default: ${TLS_CA_VARIABLE})"),
        ("cert", "certificate of the client, PEM"),
        ("key", "its private key, PEM"),
    ):
        target.add_argument(
            f"--tls-{name}", type=Path, default=argparse.SUPPRESS, metavar="FILE", help=text
        )
    parser = argparse.ArgumentParser(
        prog="wuliart", description="Generate images with a WuliArt server.", parents=[target]
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, text: str, arguments: Callable[[argparse.ArgumentParser], None], run: Run
    ) -> None:
        command = commands.add_parser(name, help=text, description=text, parents=[target])
        arguments(command)
        command.set_defaults(run=run)

    add("generate", "Generate an image.", cli_generate.add_arguments, cli_generate.run)
    add("adapters", "List the adapters.", cli_adapters.add_arguments, cli_adapters.run_adapters)
    add(
        "watch",
        "Print adapters as they change.",
        cli_adapters.add_arguments,
        cli_adapters.run_watch,
    )
    add(
        "info",
        "Describe the server, or how an image was generated.",
        cli_info.add_arguments,
        cli_info.run,
    )
    return parser


def _client(arguments: argparse.Namespace) -> Client:
    given = vars(arguments)
    files = {name: given.get(f"tls_{name}") for name in ("ca", "cert", "key")}
    tls = TLS(**files) if given.get("tls") or any(files.values()) else None
    file: Path | None = given.get("token_file")
    token = None if file is None else _read_token(file)
    return Client(given.get("target"), token=token, tls=tls)


def _read_token(path: Path) -> str:
    """Reads a token from a file, which may be a pipe.

    Raises:
        OSError: the file cannot be read or holds no token.
    """
    with path.open("rb") as file:
        data = file.read(MAX_TOKEN_BYTES + 1)
    if len(data) > MAX_TOKEN_BYTES:
        raise OSError(errno.EFBIG, f"more than {MAX_TOKEN_BYTES:,} bytes are no token", str(path))
    try:
        return data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise OSError(errno.EINVAL, "a token is ASCII text", str(path)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    with standard_streams("wuliart"):
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.run is cli_generate.run and (complaint := cli_generate.complaint(arguments)):
        parser.error(complaint)
    terminal = Terminal()
    try:
        opened = _client(arguments)
    except OSError as error:
        terminal.note(f"cannot read the token or a certificate: {error}")
        return FAILED
    try:
        with opened as client:
            arguments.run(client, arguments, terminal)
    except WuliArtError as error:
        terminal.note(error.message)
        return FAILED
    except RecipeError as error:
        terminal.note(str(error))
        return FAILED
    except OSError as error:
        terminal.note(f"cannot write {error.filename}: {error.strerror}")
        return FAILED
    except KeyboardInterrupt:
        terminal.note("interrupted")
        return INTERRUPTED
    return 0
