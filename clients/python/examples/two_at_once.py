"""Two images at once, without threads: python clients/python/examples/two_at_once.py."""

import asyncio

from wuliart_client import AsyncClient, Completed, Step


async def watch(client: AsyncClient, prompt: str) -> None:
    """Prints one image's progress; leaving the loop early would cancel it on the server."""
    async with client.generate(prompt, preview=True) as events:
        async for event in events:
            if isinstance(event, Step) and event.preview:
                print(f"{prompt}: step {event.step}, a preview of {len(event.preview)} bytes")
            elif isinstance(event, Completed):
                print(f"{prompt}: saved {event.image.save('outputs')}")


async def main() -> None:
    """Both share one connection; the server generates one after the other."""
    async with AsyncClient() as client:
        await asyncio.gather(watch(client, "a red fox"), watch(client, "一座灯塔"))


asyncio.run(main())
