"""The command `wuliart-web`: serves the page and the OpenAI-compatible API."""

from __future__ import annotations

from wuliart_process import grpc_core_log  # noqa: F401 - before anything that imports grpc

# isort: split
import argparse
import asyncio
import importlib.util
import logging
import re
import sys
from pathlib import Path
from typing import Final

from wuliart_client import AsyncClient
from wuliart_process.certificates import CertificateError, CertificateFiles, WatchedCertificate
from wuliart_process.exposure import reaches_other_machines
from wuliart_process.logs import send_to_stderr
from wuliart_process.standard_streams import standard_streams
from wuliart_process.tokens import TokenFile, TokenFileError
from wuliart_web.gradio_import import fast_gradio_import

_EXTRA: Final = ("gradio", "fastapi", "uvicorn")
"""Packages of the extra `page`, imported below, after the command line has been read."""

_SECRETS: Final = re.compile(r"(?<=/images/)[^/]+|(?<=/heartbeat/)[^/?]+|(?<=\?).*")


def main(arguments: list[str] | None = None) -> None:
    """Serves until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="wuliart-web", description="Serves the web page and the OpenAI-compatible API."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument(
        "--server",
        help="inference server (default: $WULIART_TARGET, else local)",
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE",
        help="require one of the tokens in FILE, which is also that of wuliart-server --tokens",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="allow other machines to connect without TLS and tokens",
    )
    parser.add_argument(
        "--allowed-host",
        dest="allowed_hosts",
        metavar="NAME",
        action="append",
        default=[],
        help="accept NAME in the Host header, besides localhost, addresses and --host; may be "
        "repeated, '*' accepts any name",
    )
    with standard_streams("wuliart-web"):
        options = parser.parse_args(arguments)
    if missing := [name for name in _EXTRA if importlib.util.find_spec(name) is None]:
        sys.exit(
            f"wuliart-web: {', '.join(missing)} not installed; install the extra of the page: "
            'pip install "wuliart-turbo[page]"'
        )
    if (options.tls_cert is None) != (options.tls_key is None):
        parser.error("--tls-cert and --tls-key must be given together")
    lacking = options.tls_cert is None or options.tokens is None
    if (
        lacking
        and reaches_other_machines(f"{options.host}:{options.port}")
        and not options.insecure
    ):
        parser.error(
            f"--host {options.host} can be reached from other machines: give --tls-cert, --tls-key "
            "and --tokens, listen on 127.0.0.1, or give --insecure if everyone may use it (or if a "
            "proxy in front of it checks its users)"
        )
    try:
        tokens = TokenFile(options.tokens) if options.tokens else None
    except TokenFileError as error:
        parser.error(f"--tokens: {error}")
    try:
        certificate = (
            WatchedCertificate(CertificateFiles(options.tls_cert, options.tls_key))
            if options.tls_cert
            else None
        )
    except CertificateError as error:
        parser.error(f"--tls-cert, --tls-key: {error}")
    send_to_stderr("INFO", "text", _redact)
    with fast_gradio_import():
        from wuliart_web.app import create_app
        from wuliart_web.serving import serve
    app = create_app(AsyncClient(options.server), tokens, [options.host, *options.allowed_hosts])
    try:
        asyncio.run(serve(app, options.host, options.port, certificate))
    except OSError as error:
        sys.exit(f"wuliart-web: cannot listen on {options.host}:{options.port}: {error}")
    except KeyboardInterrupt:
        pass  # uvicorn has shut down cleanly and raises the signal again


def _redact(record: logging.LogRecord) -> bool:
    """Removes secrets and terminal colours from uvicorn's records; a filter that keeps each record.

    The address of an image or the name of a session is enough to see it.
    """
    vars(record).pop("color_message", None)
    if record.name == "uvicorn.access" and isinstance(record.args, tuple):
        record.args = tuple(
            _SECRETS.sub("...", value) if isinstance(value, str) else value for value in record.args
        )
    return True


if __name__ == "__main__":
    main()
