"""From a prompt's text to token ids: the chat template of Qwen-Image and its tokenizer.

Source of the template: diffusers `pipeline_qwenimage.py`, 0.42.
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
    TOKENIZER_CONFIG,
    SmallFiles,
    write_small_files,
)
from inference_server.model.weights.model_files import parse_json
from wuliart_contract.limits import MAX_PROMPT_TOKENS

PREFIX = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"

FOLDER = "tokenizer"

FILE_KEYS = ("_file", "_files")
"""Endings of the keys in a tokenizer's config whose values name other files."""
LEFT_OUT = ("auto_map", "model_max_length")
"""Keys dropped from a tokenizer's config: names of code, and a limit that only causes warnings."""

PREFIX_TOKENS = 34
"""Tokens of the template's front, whose hidden states the stock pipeline drops."""


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A templated prompt as token ids, cut to what the model reads."""

    ids: tuple[int, ...]
    """Input of the text encoder, including the template's front."""
    used: int
    """Number of tokens after the front, including the template's end."""
    ignored: int
    """Number of tokens cut from the end."""


class PromptTokenizer:
    """The checkpoint's tokenizer together with the template.

    `largest_id` is the largest id that a prompt can contain.

    Args:
        model: contains the files of the folder `tokenizer`.

    Raises:
        ModelError: there is no usable tokenizer.
    """

    def __init__(self, model: SmallFiles) -> None:
        self._tokenizer, front, self.largest_id = _load(model)
        if front != PREFIX_TOKENS:
            raise ModelError(
                f"the tokenizer in {model.where / FOLDER} turns Qwen-Image's template into {front} "
                f"tokens instead of {PREFIX_TOKENS}: it belongs to another model"
            )

    def tokenize(self, prompt: str) -> TokenizedPrompt:
        """Applies the template and tokenizes.

        The encoder is causal, so cutting the end does not change the states before it. The stock
        pipeline encodes up to 1,024 tokens and then cuts to the same 512.
        """
        ids = self._tokenizer(PREFIX + prompt + SUFFIX).input_ids
        limit = PREFIX_TOKENS + MAX_PROMPT_TOKENS
        return TokenizedPrompt(
            ids=tuple(ids[:limit]),
            used=min(len(ids), limit) - PREFIX_TOKENS,
            ignored=max(0, len(ids) - limit),
        )


def _load(model: SmallFiles) -> tuple[Any, int, int]:
    """Returns a model's tokenizer, the number of tokens of the template's front, the largest id.

    transformers opens every file it finds in a folder and every file its config names. It therefore
    gets a folder of copies, with a config that names no files and no code.
    """
    folder = model.where / FOLDER
    text = model.small_file(f"{FOLDER}/{TOKENIZER_CONFIG}")
    if text is None:
        raise ModelError(f"{folder} has no {TOKENIZER_CONFIG}. Download it again.")
    config = parse_json(text, str(folder / TOKENIZER_CONFIG))
    for name in [name for name in config if name in LEFT_OUT or name.endswith(FILE_KEYS)]:
        del config[name]
    try:
        with TemporaryDirectory() as name:
            copies = Path(name)
            write_small_files(model, FOLDER, copies)
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
        # For an unusable file the tokenizers package raises any built-in exception, or its own
        # PanicException, which is a BaseException.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelError(f"cannot load the tokenizer in {folder}: {why}") from None
