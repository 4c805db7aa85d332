"""The inference server: prompt in, streamed steps, a 1024x1024 JPEG out.

Folder order is call order: `service` (gRPC edge) -> `scheduler` (queue, device thread) ->
`adapters` (slots, segment, catalog) and `engine` (one image) -> `model` (tensors).
"""

import importlib.metadata
from typing import Final

VERSION: Final = importlib.metadata.version("wuliart-turbo")
"""Read once: later there may be no descriptor left to open its file with."""
