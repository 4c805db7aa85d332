"""The fixed limits of the service."""

from __future__ import annotations

from typing import Final

IMAGE_SIZE: Final = 1024
"""Width and height of every image, in pixels."""

JPEG_QUALITY: Final = 95
"""JPEG quality of every image."""

MEDIA_TYPE: Final = "image/jpeg"

MIN_STEPS: Final = 1
MAX_STEPS: Final = 8
"""Denoising steps. The schedule narrows this range; `Limits` has the server's own."""
DEFAULT_STEPS: Final = 4
"""For a schedule that names no number: 4 production, 3 preview, 2 draft, 1 barely usable."""

MAX_PROMPT_CHARACTERS: Final = 2000
MAX_PROMPT_TOKENS: Final = 512
"""Tokens of the prompt the transformer reads; the stock pipeline's default."""

MAX_ADAPTERS: Final = 4
MAX_ADAPTER_WEIGHT: Final = 4.0
"""Largest absolute strength of an adapter. Slider LoRAs are used beyond 2."""

MAX_ADAPTER_NAME_CHARACTERS: Final = 200

MAX_LISTED_ADAPTERS: Final = 10_000
"""Files of the watched directory that are listed. The server's event loop takes 0.3 s to compare
two lists of this length, and ten seconds for ten times as many."""

MAX_THUMBNAILS: Final = 2_000
"""Adapters that have a thumbnail; of more, the first by name. Server and manager hold all in
memory, at most 64 MB."""

THUMBNAIL_PIXELS: Final = 256
"""Longest edge of a thumbnail."""

MAX_THUMBNAIL_BYTES: Final = 32 << 10

MAX_REQUEST_BYTES: Final = 64 << 10
"""Largest message the public port accepts: the longest request is 12 KiB, and one that is a few
times too long still gets an answer that names the field."""

MAX_RESPONSE_BYTES: Final = 16 << 20
"""Largest message a client should accept: a noisy 1024x1024 JPEG stays below 4 MiB."""

MAX_CONTROL_BYTES: Final = 64 << 20
"""Largest message between server and manager: a catalog of many thousand files."""
