"""One server and its manager as processes, known versions of an adapter, and what each must
generate.

Starts the processes, changes the folder of adapters, and waits for the result.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from scripts.processes import Service
from tests.chaos.manager_at import ManagerStep
from tests.support.lora_files import make_lora
from wuliart_client import Adapter, AdapterState, Client, GeneratedImage
from wuliart_lora.slot_layout import SegmentLayout

PATIENCE = 60.0
"""Seconds something may take on a busy machine; nothing is asserted about shorter times."""

RANK = 64
"""Images of a megabyte: large enough that a kill can hit the copy."""

PROMPT = "a boat"


@dataclass(frozen=True)
class Version:
    """One content of a LoRA file."""

    data: bytes
    hash: str


class World:
    """A running server on the small model; managers are started and killed by the tests."""

    def __init__(self, folder: Path, checkpoint: Path, layout: SegmentLayout) -> None:
        self.service = Service(
            folder / "run",
            folder / "loras",
            server_arguments=["--model", str(checkpoint), "--max-rank", str(RANK)],
        )
        self.layout = layout
        self.client = Client(self.service.listen)
        self.golden: dict[str, bytes] = {}
        """Content hash -> the image that is generated with exactly this version."""
        self.arm = folder / "armed"

    def version(self, seed: int) -> Version:
        """An adapter strong enough to change every image."""
        data = make_lora(self.layout, rank=RANK, seed=seed, scale=0.1)
        return Version(data, hashlib.sha256(data).hexdigest())

    # -- processes --------------------------------------------------------------------------

    def start_manager(self, *options: str) -> None:
        """The real program as users start it; without waiting for it."""
        self.service.manager_arguments = options
        self.service.start_manager()

    def start_manager_at(self, step: ManagerStep, number: Signals) -> None:
        """The real program, which sends itself the signal at the step once `arm` exists."""
        service = self.service
        folders: list[str | Path] = ["--loras", service.loras, "--runtime-dir", service.runtime_dir]
        arguments = [step, number.name, self.arm, *folders]
        service._run("manager", "tests.chaos.manager_at", arguments)

    def wait_attached(self, attached: bool = True) -> None:
        self.until(
            lambda: self.client.info().lora_manager_connected is attached,
            f"the manager attached: {attached}",
        )

    @property
    def life(self) -> tuple[int, str]:
        """The server's process id and epoch: another pair is another server."""
        with self.client.watch(timeout=PATIENCE) as changes:
            epoch = next(changes).resume_token.partition(":")[0]
        server = self.service.processes["server"]
        assert server.poll() is None, "the server has ended"
        return server.pid, epoch

    # -- the folder -------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        return self.service.loras / f"{name}.safetensors"

    def drop(self, name: str, version: Version) -> None:
        """Writes a file as a careful program does: aside, then renamed in."""
        aside = self.service.loras.parent / f"{name}.aside"
        aside.write_bytes(version.data)
        aside.rename(self.path(name))

    def clear(self) -> None:
        """No file, no adapter, no manager: as it was before the first test."""
        self._end_manager()
        for path in self.service.loras.iterdir():
            path.unlink()
        self.arm.unlink(missing_ok=True)
        # What a manager never said is gone, the server keeps.
        self.start_manager()
        self.until(lambda: not self.client.adapters(), "all adapters gone")
        self._end_manager()

    def _end_manager(self) -> None:
        if "manager" in self.service.processes:
            self.service.kill("manager")
        self.wait_attached(False)

    def await_adapter(self, name: str, accept: Callable[[Adapter], bool]) -> Adapter:
        """Returns the adapter as soon as the server reports it in an acceptable state."""
        with self.client.watch(timeout=PATIENCE) as changes:
            for change in changes:
                for adapter in change.adapters:
                    if adapter.name == name and accept(adapter):
                        return adapter
        raise AssertionError(f"adapter {name!r} never became what was waited for")

    def await_resident(self, name: str, version: Version) -> Adapter:
        """The adapter once it lies in a slot with exactly this content."""
        return self.await_adapter(
            name, lambda a: a.state is AdapterState.RESIDENT and a.content_hash == version.hash
        )

    # -- images ---------------------------------------------------------------------------

    def image(self, *adapters: str, steps: int = 1) -> GeneratedImage:
        """An image without its recipe, so that equal pixels are equal bytes."""
        return self.client.generate_image(
            PROMPT, seed=1, steps=steps, adapters=adapters, metadata=False, timeout=PATIENCE
        )

    def draws(self, name: str, version: Version) -> bool:
        """Returns True if an image with the adapter names this version and is its golden image."""
        image = self.image(name)
        used = image.adapters[0].content_hash
        return used == version.hash and image.data == self.golden[version.hash]

    def make_golden(self, versions: Sequence[Version]) -> None:
        """Generates with each version alone and at rest."""
        plain = self.image().data
        for version in versions:
            name = f"golden-{version.hash[:8]}"
            self.drop(name, version)
            self.await_resident(name, version)
            self.golden[version.hash] = self.image(name).data
            assert self.image(name).data == self.golden[version.hash], "generating is repeatable"
            self.path(name).unlink()
        assert len({plain, *self.golden.values()}) == len(versions) + 1

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Polls for a condition that no event reports."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE:.0f} s"
            time.sleep(0.01)

    def close(self) -> None:
        self.client.close()
        self.service.stop()
