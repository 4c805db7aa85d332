"""`wuliart-server`: command line, logging and signals."""

from __future__ import annotations

from wuliart_process import grpc_core_log  # noqa: F401 - before anything imports grpc

# isort: split
import asyncio
import gc
import os
import signal
import sys

from inference_server.config import Config, parse_arguments
from inference_server.errors import RequestError, ServerError, one_line
from inference_server.logs import configure
from wuliart_process import tracing
from wuliart_process.standard_streams import standard_streams


async def _run(config: Config) -> None:
    # OpenMP reads this once, when torch loads it. Threads that spin while they wait would keep the
    # event loop and the LoRA manager off the cores; see docs/decisions.md.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Imports and loading create no garbage; collecting meanwhile takes 0.5 s.
    gc.disable()
    from inference_server.server import serve

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopping.is_set():
            # A second signal ends the process without waiting for images.
            os._exit(1)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    await serve(config, stopping)


def main() -> None:
    """Console entry point; exits with 1 and one line if the server cannot start."""
    if sys.argv[1:2] == ["prepare"]:
        from inference_server.loading.prepare_command import main as prepare

        with standard_streams("wuliart-server prepare"):
            prepare(sys.argv[2:])
        return
    with standard_streams("wuliart-server"):
        config = parse_arguments()
    configure(config.log_level, config.log_format)
    try:
        tracing.configure("wuliart-server")
    except tracing.TracingError as error:
        sys.exit(f"wuliart-server: {error}")
    try:
        asyncio.run(_run(config))
    except RequestError as error:
        sys.exit(f"wuliart-server: the model fails at its warm-up image: {error}")
    except ServerError as error:
        sys.exit(f"wuliart-server: {one_line(str(error))}")


if __name__ == "__main__":
    main()
