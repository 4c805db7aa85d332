"""The process `wuliart-lora-manager`: reads its command line, wires it up, ends on a signal."""

from __future__ import annotations

from wuliart_process import grpc_core_log  # noqa: F401 - before whatever imports grpc

# isort: split
import asyncio
import logging
import os
import signal
import sys

from lora_manager.config import ConfigError, ManagerConfig, parse_config
from lora_manager.manager import LoraManager
from wuliart_process import tracing
from wuliart_process.logs import send_to_stderr
from wuliart_process.standard_streams import standard_streams

log = logging.getLogger("lora_manager")


async def run(config: ManagerConfig) -> None:
    """Manage until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # it would end the process; see `writers_of`
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("watching %s for the server in %s", config.loras, config.runtime_dir)
    managing = asyncio.create_task(LoraManager(config).run())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((managing, stopping), return_when=asyncio.FIRST_COMPLETED)
    managing.cancel()
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    try:
        await managing
    except asyncio.CancelledError:
        log.info("stopped")


def main() -> None:
    """Run the LoRA manager; does not return."""
    try:
        with standard_streams("wuliart-lora-manager"):
            config = parse_config(sys.argv[1:], os.environ)
    except ConfigError as error:
        print(f"wuliart-lora-manager: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    send_to_stderr(config.log_level, "json" if config.log_format == "json" else "text")
    try:
        tracing.configure("wuliart-lora-manager")
    except tracing.TracingError as error:
        print(f"wuliart-lora-manager: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    code = 0
    try:
        asyncio.run(run(config))
    except Exception:
        log.exception("the LoRA manager failed")
        code = 1
    # Threads that read a huge file or hang on a dead network mount must not keep the process.
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    main()
