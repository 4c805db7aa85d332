"""`make demo`: generates an image, adds an adapter while the server runs, and generates again.

Both images have the same prompt and seed. The exit code is 0 only if every step worked.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from scripts.processes import ProcessDiedError, Service
from wuliart_client import (
    AdapterState,
    Client,
    Completed,
    Event,
    GeneratedImage,
    Queued,
    Started,
    Step,
    WuliArtError,
)

ROOT = Path(__file__).resolve().parent.parent
ADAPTER = ROOT / "loras" / "neon.safetensors"
OUTPUTS = Path("outputs")
PROMPT = "a rocket on a purple background"
SEED = "20240521"
APPEAR_SECONDS = 30.0


class DemoError(RuntimeError):
    """A step of the demo did not do what it should."""


def show(event: Event) -> None:
    """Prints an event as one word, all of an image on one line."""
    match event:
        case Queued(position=position):
            print(f"  Queued ({position} ahead) → ", end="", flush=True)
        case Started(seed=seed):
            print(f"  seed {seed}: ", end="", flush=True)
        case Step(step=step, total_steps=total):
            print(f"Step {step}/{total} → ", end="", flush=True)
        case Completed(image=image):
            print(f"Done in {image.timings.total:.1f} s", flush=True)


def generate(
    client: Client, prompt: str, seed: int, adapters: tuple[str, ...] = ()
) -> GeneratedImage:
    """Generates an image and prints its progress."""
    with_adapter = f" with the adapter {', '.join(adapters)}" if adapters else ""
    print(f"Generating “{prompt}”{with_adapter} ...")
    image = client.generate_image(prompt, seed=seed, adapters=adapters, on_event=show)
    if (image.width, image.height) != (1024, 1024) or image.data[:2] != b"\xff\xd8":
        raise DemoError("the server sent something other than a 1024x1024 JPEG")
    return image


def drop_adapter(client: Client, folder: Path) -> str:
    """Copies the adapter into the watched folder; returns its name once it is usable."""
    print(f"Copying {ADAPTER.relative_to(ROOT)} into the watched folder; the server runs on ...")
    dropped = time.perf_counter()
    with client.watch(timeout=APPEAR_SECONDS) as changes:
        shutil.copy(ADAPTER, folder)
        for change in changes:
            for adapter in change.adapters:
                if adapter.name != ADAPTER.stem:
                    continue
                if adapter.state is AdapterState.REFUSED:
                    raise DemoError(f"the adapter was refused: {adapter.refusal_reason}")
                if adapter.state is AdapterState.RESIDENT:
                    took = time.perf_counter() - dropped
                    print(f"  “{adapter.title}” is usable after {took * 1000:.0f} ms")
                    return adapter.name
    raise DemoError(f"the adapter did not appear within {APPEAR_SECONDS:.0f} s")


def pixels(image: GeneratedImage) -> bytes:
    """Returns the RGB bytes without the file's metadata, which always differs."""
    return Image.open(io.BytesIO(image.data)).tobytes()


def run(service: Service, prompt: str, seed: int) -> tuple[Path, Path]:
    """Runs the demo; returns the paths of the two images."""
    print("Starting the inference server and the LoRA manager (embedded model) ...", flush=True)
    service.start_server()
    service.start_manager()
    service.wait_until_ready()
    with Client(service.listen) as client:
        plain = generate(client, prompt, seed)
        first = plain.save(OUTPUTS)
        adapter = drop_adapter(client, service.loras)
        adapted = generate(client, prompt, seed, (adapter,))
        second = adapted.save(OUTPUTS)
    if pixels(plain) == pixels(adapted):
        raise DemoError("the adapter changed nothing")
    return first, second


def main() -> int:
    """Runs the demo; returns 0 if everything worked."""
    prompt = os.environ.get("PROMPT") or PROMPT
    seed_text = os.environ.get("SEED") or SEED
    if not (seed_text.isascii() and seed_text.isdecimal()):
        print(f"SEED must be a whole number, not {seed_text!r}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="wuliart-demo-") as folder:
        service = Service(Path(folder) / "run", Path(folder) / "loras")
        paths: tuple[Path, Path] | None = None
        try:
            paths = run(service, prompt, int(seed_text))
        except (DemoError, ProcessDiedError, TimeoutError, WuliArtError, OSError) as error:
            print(f"\nThe demo failed: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("\nInterrupted.", file=sys.stderr)
        finally:
            print("Stopping both processes ...", flush=True)
            codes = service.stop()
        if any(codes.values()):
            print(f"A process did not stop cleanly: {codes}", file=sys.stderr)
            return 1
    if paths is None:
        return 1
    print("Two images, same prompt, same seed:")
    for path in paths:
        print(f"  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
