"""From a prompt's text to token ids: the chat template of Qwen-Image and its tokenizer.

Owns the template and what is cut from its front; knows nothing of the encoder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer

from inference_server.errors import ModelError
from inference_server.model.weights.checkpoint import (
    MAX_SMALL_FILE_BYTES,
    TOKENIZER_CONFIG,
    copy_small_files,
)
from inference_server.model.weights.model_files import read_json
from wuliart_contract.limits import MAX_PROMPT_TOKENS

PREFIX = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"

FILE_KEYS = ("_file", "_files")
"""Ends of the names by which a tokenizer's config names other files."""
LEFT_OUT = ("auto_map", "model_max_length")
"""Names of code, and a limit that transformers only warns about."""

PREFIX_TOKENS = 34
"""Tokens of the template's front; their hidden states are dropped (stock pipeline)."""


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """Ids for the encoder, the template's front included, cut to what the model reads."""

    ids: tuple[int, ...]
    used: int
    """Tokens after the front that are read, the template's end included."""
    ignored: int
    """Tokens cut from the end."""


class PromptTokenizer:
    """The checkpoint's tokenizer behind the template.

    `largest_id` is the largest id that a prompt may give.

    Args:
        model: the model's folder, which holds the folder `tokenizer`.

    Raises:
        ModelError: the folder holds no usable tokenizer.
    """

    def __init__(self, model: Path) -> None:
        folder = model / "tokenizer"
        self._tokenizer, front, self.largest_id = _load(model)
        if front != PREFIX_TOKENS:
            raise ModelError(
                f"the tokenizer in {folder} turns Qwen-Image's template into {front} tokens "
                f"instead of {PREFIX_TOKENS}: it belongs to another model"
            )

    def tokenize(self, prompt: str) -> TokenizedPrompt:
        """Ids of the templated prompt.

        The encoder is causal, so cutting the end changes nothing before it; the stock pipeline
        encodes up to 1,024 tokens and then cuts to the same 512.
        """
        ids = self._tokenizer(PREFIX + prompt + SUFFIX).input_ids
        limit = PREFIX_TOKENS + MAX_PROMPT_TOKENS
        return TokenizedPrompt(
            ids=tuple(ids[:limit]),
            used=min(len(ids), limit) - PREFIX_TOKENS,
            ignored=max(0, len(ids) - limit),
        )


def _load(model: Path) -> tuple[Any, int, int]:
    """The tokenizer of a model's folder, the tokens of the template's front, and the largest id.

    transformers opens whatever a folder holds and whatever its config names. It gets a folder of
    copies instead, with a config that names no file and no code.
    """
    folder = model / "tokenizer"
    config = read_json(model, folder / TOKENIZER_CONFIG, MAX_SMALL_FILE_BYTES)
    for name in [name for name in config if name in LEFT_OUT or name.endswith(FILE_KEYS)]:
        del config[name]
    try:
        with TemporaryDirectory() as name:
            copies = Path(name)
            copy_small_files(model, "tokenizer", copies)
            (copies / TOKENIZER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
            tokenizer = AutoTokenizer.from_pretrained(
                copies, local_files_only=True, trust_remote_code=False
            )
        front = len(tokenizer(PREFIX).input_ids)
        return tokenizer, front, int(max(tokenizer.get_vocab().values()))
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"cannot load the tokenizer in {folder}: {error}") from None
    except BaseException as error:
        # The tokenizers package is not fussy about what it raises for a file it cannot use: any
        # class of Python's, and PanicException, which is a BaseException.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelError(f"cannot load the tokenizer in {folder}: {why}") from None
