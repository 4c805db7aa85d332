"""Reads options of `wuliart-server` in a deployment's process, and sets up its log and traces."""

from __future__ import annotations

from collections.abc import Sequence

from inference_server.config import Config, parse_arguments
from inference_server.errors import ServerError
from inference_server.logs import configure
from wuliart_process import tracing


def configure_process(arguments: Sequence[str], service: str) -> Config:
    """Parses the options and configures logging and tracing accordingly.

    Args:
        arguments: options of `wuliart-server`.
        service: name of this process in traces.

    Returns:
        The settings.

    Raises:
        ServerError: the options cannot be parsed, or traces cannot be sent; the message says why.
    """
    try:
        config = parse_arguments(list(arguments))
    except SystemExit:
        # The parser has written the reason to standard error, which Ray keeps as a log.
        raise ServerError(f"not options of wuliart-server: {' '.join(arguments)}") from None
    configure(config.log_level, config.log_format)
    try:
        tracing.configure(service)
    except tracing.TracingError as error:
        raise ServerError(str(error)) from None
    return config
