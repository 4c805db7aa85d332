"""Calls of the page as a browser sends them: a POST joins Gradio's queue, a stream answers."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx


def inputs(**others: Any) -> list[Any]:
    """Returns the values of the controls, in the order in which the page sends them."""
    fields = {"prompt": "a fox", "adapter": "", "weight": 1, "second": "", "second_weight": 1}
    return [*(fields | {"seed": 7, "keep": True, "steps": 4, "visit": None} | others).values()]


class PageCalls:
    """One browser session.

    Args:
        http: Client whose base URL is the page's.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.session = secrets.token_hex(6)
        self._functions: dict[str, int] = {}

    async def index(self, name: str) -> int:
        """Returns the number of a function in the page's configuration."""
        if not self._functions:
            page = (await self.http.get("/")).text
            found = re.search(r"window\.gradio_config = (\{.*?\});</script>", page, re.DOTALL)
            assert found
            config = json.loads(found[1])
            self._functions = {d["api_name"]: d["id"] for d in config["dependencies"]}
        return self._functions[name]

    async def join(self, name: str, data: list[Any], **others: Any) -> httpx.Response:
        """Starts a call; the response names its event."""
        body = {"data": data, "event_data": None, "fn_index": await self.index(name)}
        body |= {"trigger_id": None, "session_hash": self.session}
        return await self.http.post("/gradio_api/queue/join", json=body | others)

    async def outputs(self) -> AsyncIterator[list[Any]]:
        """Yields the outputs of the session's open calls as they come."""
        query = {"session_hash": self.session}
        async with self.http.stream("GET", "/gradio_api/queue/data", params=query) as stream:
            values: list[Any] = []
            async for line in stream.aiter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line.removeprefix("data:"))
                if message["msg"] == "process_generating":
                    values = _patched(values, message["output"]["data"])
                    yield values
                elif message["msg"] == "process_completed":
                    assert message["success"], message
                    if message["output"].get("data"):
                        yield message["output"]["data"]
                    return

    async def call(self, name: str, data: list[Any], **others: Any) -> list[list[Any]]:
        """Makes a call and returns all its outputs."""
        joined = await self.join(name, data, **others)
        assert joined.status_code == 200, joined.text
        return [values async for values in self.outputs()]


def _patched(before: list[Any], now: list[Any]) -> list[Any]:
    """Applies a message to the previous outputs: the first is complete, later ones are edits."""
    return [
        value if not before else _edited(old, value)
        for old, value in zip(before or now, now, strict=True)
    ]


def _edited(old: Any, edits: Any) -> Any:
    for action, path, value in edits:
        if not path:
            old = old + value if action == "append" else value
            continue
        target = old
        for key in path[:-1]:
            target = target[key]
        if action == "delete":
            del target[path[-1]]
        elif action == "append":
            target[path[-1]] += value
        else:
            target[path[-1]] = value
    return old
