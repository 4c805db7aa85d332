"""Fuzzes one target: `python -m tests.fuzz.engine TARGET [libFuzzer options] [corpus folders]`.

Runs libFuzzer through atheris, which instruments the modules in WATCHED for coverage. Exits with
libFuzzer's code, which is not 0 if an input made the target raise or exceeded the limits of time
or memory.
"""

from __future__ import annotations

import logging
import sys

import atheris

WATCHED = [
    "wuliart_lora",
    "wuliart_contract.recipe",
    "wuliart_client._recipe",
    "wuliart_lora.slot_image",
    "lora_manager.directory",
    "inference_server.model.weights.gguf_file",
    "inference_server.model.weights.gguf_header",
    "inference_server.model.weights.gguf_values",
    "inference_server.model.weights.scale_marks",
    "inference_server.model.weights.single_file",
    "inference_server.model.weights.published",
    "inference_server.model.weights.wan_vae_names",
    "inference_server.service.validation",
    "inference_server.service.segment_service",
    "inference_server.service.status",
    "inference_server.adapters.store",
    "inference_server.adapters.slots",
    "inference_server.adapters.catalog",
]


def main() -> None:
    """Runs libFuzzer, which ends the process."""
    with atheris.instrument_imports(include=WATCHED):
        from tests.fuzz.targets import TARGETS

    logging.disable()
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    vary = target.vary
    varied = (
        {}
        if vary is None
        else {"custom_mutator": lambda data, most, seed: vary(data, most, seed, atheris.Mutate)}
    )
    arguments = [sys.argv[0], f"-max_len={target.most_bytes}", *options]
    atheris.Setup(arguments, target.run, **varied)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
