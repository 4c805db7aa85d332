"""Binds an address as the server does, as soon as its standard input is closed.

    python -m tests.support.contender ADDRESS

Prints "serves" or the error; runs until it is killed. Imports no torch, so that several start
quickly.
"""

from __future__ import annotations

import asyncio
import sys

from inference_server.service.rpc_server import public_server
from inference_server.service.unix_address import UnixAddressError, reserved


async def run(address: str) -> None:
    server = public_server([])
    await asyncio.to_thread(sys.stdin.read)
    try:
        with reserved(address):
            server.add_insecure_port(address)
    except UnixAddressError as error:
        print(error, flush=True)
        return
    print("serves", flush=True)
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
