"""The warm-up covers every shape of the attention that a prompt can cause."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference_server.model.transformer import prompt_lengths
from wuliart_contract.limits import MAX_PROMPT_TOKENS


@given(st.integers(1, 5000), st.integers(2, 256))
def test_each_shape_once(image_tokens: int, query_multiple: int) -> None:
    def shape(text_tokens: int) -> int:
        return (text_tokens + image_tokens + query_multiple - 1) // query_multiple

    warm = [shape(length) for length in prompt_lengths(image_tokens, query_multiple)]
    assert len(warm) == len(set(warm))
    assert set(warm) == {shape(length) for length in range(1, MAX_PROMPT_TOKENS + 1)}


def test_full_size_has_four_shapes() -> None:
    assert prompt_lengths(4096, 128) == [128, 256, 384, 512]
    assert prompt_lengths(4096, 1) == [1]
