"""`make up`: server, LoRA manager and web page in the foreground until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from scripts.processes import ProcessDiedError, Service

DEFAULT_LISTEN = "127.0.0.1:50051"
WEB_PORT = 7860


def main() -> int:
    """Runs all three; returns 0 after Ctrl-C or SIGTERM, 1 if one of them ended by itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loras", type=Path, default=Path("loras"))
    parser.add_argument("--runtime-dir", type=Path, default=Path(".run/up").absolute())
    parser.add_argument("--listen", default=DEFAULT_LISTEN)
    parser.add_argument("--web-port", type=int, default=WEB_PORT)
    parser.add_argument("server_arguments", nargs="*", help="after --: passed to wuliart-server")
    values = parser.parse_args()
    service = Service(
        values.runtime_dir,
        values.loras,
        values.listen,
        server_arguments=values.server_arguments,
        inherit_output=True,
    )
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    service.start_server()
    service.start_manager()
    service.start_web(values.web_port)
    print(
        f"Page on http://127.0.0.1:{values.web_port}, gRPC on {values.listen}, adapters from "
        f"{values.loras}/. Ctrl-C stops all three.",
        flush=True,
    )
    code = 0
    while not stopping.wait(0.2):
        try:
            service.check()
        except ProcessDiedError as error:
            print(error, file=sys.stderr)
            code = 1
            break
    codes = service.stop()
    print("Stopped.", flush=True)
    return code or int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main())
