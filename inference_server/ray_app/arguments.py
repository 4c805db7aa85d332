"""`wuliart-server`'s options as a deployment's: read once, when its process begins.

Owns what the command does with them before it serves: the log and the traces.
"""

from __future__ import annotations

from collections.abc import Sequence

from inference_server.config import Config, parse_arguments
from inference_server.errors import ServerError
from inference_server.logs import configure
from wuliart_process import tracing


def parsed(arguments: Sequence[str], service: str) -> Config:
    """The settings; from here on this process logs and traces as they say.

    Args:
        arguments: of `wuliart-server`.
        service: the name that traces give this process.

    Raises:
        ServerError: they are none, or traces cannot be sent; the message says why.
    """
    try:
        config = parse_arguments(list(arguments))
    except SystemExit:
        # It has said why on standard error, which Ray keeps as the process's log.
        raise ServerError(f"no options of wuliart-server: {' '.join(arguments)}") from None
    configure(config.log_level, config.log_format)
    try:
        tracing.configure(service)
    except tracing.TracingError as error:
        raise ServerError(str(error)) from None
    return config
