"""The warm-up meets every shape that a prompt can give the attention."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference_server.model.transformer import prompt_lengths
from wuliart_contract.limits import MAX_PROMPT_TOKENS


@given(st.integers(1, 5000), st.integers(2, 256))
def test_each_shape_once(images: int, queries: int) -> None:
    def shape(texts: int) -> int:
        return (texts + images + queries - 1) // queries

    warm = [shape(texts) for texts in prompt_lengths(images, queries)]
    assert len(warm) == len(set(warm))
    assert set(warm) == {shape(texts) for texts in range(1, MAX_PROMPT_TOKENS + 1)}


def test_full_size_has_four() -> None:
    assert prompt_lengths(4096, 128) == [128, 256, 384, 512]
    assert prompt_lengths(4096, 1) == [1]
