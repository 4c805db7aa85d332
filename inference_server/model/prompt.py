"""From a prompt's text to token ids: the chat template of Qwen-Image and its tokenizer.

Owns the template and what is cut from its front; knows nothing of the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from inference_server.errors import ModelError
from wuliart.contract.limits import MAX_PROMPT_TOKENS

PREFIX = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"

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

    Raises:
        ModelError: the folder holds no usable tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(f"cannot load the tokenizer in {folder}: {error}") from None
        front = len(self._tokenizer(PREFIX).input_ids)
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
