"""What the embedded model knows, as GetServerInfo describes it: the JSON file beside its weights.

The file is the message in its JSON form, so everything that clients show of the model is data that
is exchanged together with the weights.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from google.protobuf import json_format

from inference_server.config import EMBEDDED_MODEL
from wuliart.v1 import image_generation_pb2 as pb

DESCRIPTION: Final = EMBEDDED_MODEL.with_name("description.json")
"""Optional: without it, clients show nothing."""


@cache
def embedded_description() -> pb.ModelDescription | None:
    """Returns the description of the embedded model; None if it has none.

    Raises:
        json_format.ParseError: the file is not a `ModelDescription`.
    """
    if not DESCRIPTION.exists():
        return None
    return json_format.Parse(DESCRIPTION.read_bytes(), pb.ModelDescription())
