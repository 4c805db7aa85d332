"""Files of other forms than plain LoRA, through a whole service: the image that they mean."""

from __future__ import annotations

import numpy as np

from tests.e2e.conftest import LiveService
from tests.support.lora_files import RawTensor, encode, module_features, pack
from tests.support.other_forms import differences, lokr

RANK = 3


def tensor(values: np.ndarray) -> RawTensor:
    return "F32", values.shape, encode(values, "F32")


def forms(live: LiveService, alpha: float) -> tuple[dict[str, RawTensor], dict[str, RawTensor]]:
    """The same adapter as a LoHa and as a LoRA of rank 9, whose factors numpy.kron computes.

    Not of timestep-only layers: their tables are products, whose last bit depends on alignment.
    """
    random = np.random.default_rng(1)
    loha: dict[str, RawTensor] = {}
    lora: dict[str, RawTensor] = {}
    features = module_features(live.layout)
    for module in (m for site in live.layout.low_rank_sites.values() for m in site.modules):
        inner, outer = features[module]
        a, b, c, d = (
            random.standard_normal(shape, np.float32) * np.float32(0.5)
            for shape in ((outer, RANK), (RANK, inner), (outer, RANK), (RANK, inner))
        )
        path = f"lora_unet_{module.replace('.', '_')}"
        for part, values in zip(("w1_a", "w1_b", "w2_a", "w2_b"), (a, b, c, d), strict=True):
            loha[f"{path}.hada_{part}"] = tensor(values)
        loha[f"{path}.alpha"] = tensor(np.array(alpha))
        up = np.stack([np.kron(one, other) for one, other in zip(a, c, strict=True)])
        down = np.stack([np.kron(one, other) for one, other in zip(b.T, d.T, strict=True)]).T
        lora[f"{module}.lora_A.weight"] = tensor(down)
        lora[f"{module}.lora_B.weight"] = tensor(up * np.float32(alpha / RANK))
    return loha, lora


def test_a_loha_gives_the_image_of_the_lora_that_it_is(live: LiveService) -> None:
    loha, lora = forms(live, alpha=0.75)
    live.drop("loha", pack(loha))
    live.drop("lora", pack(lora))
    assert live.wait_usable("loha").rank == live.wait_usable("lora").rank == RANK**2
    assert live.generate("loha") == live.generate("lora") != live.generate()


def test_a_lokr_and_differences_are_hot_swapped_like_any_other(live: LiveService) -> None:
    """Whether a factor is whole or in two, and whatever the keys, the image is the same."""
    layout, modules = live.layout, [*live.layout.modules]
    whole = lokr(layout, modules, alpha=np.inf, alpha_dtype="F16")
    in_two = lokr(layout, modules, second_rank=4, alpha=4, prefix="lycoris_{f}")
    vectors = differences(layout, modules, layout.norms)
    plain = live.generate()
    live.drop("kron", pack(whole.tensors))
    assert live.wait_usable("kron").rank == 0
    first = live.generate("kron")
    live.drop("kron-and-more", pack((whole | vectors).tensors))
    live.drop("differences", pack(vectors.tensors))
    live.drop("in-two", pack(in_two.tensors))
    for name in ("kron-and-more", "differences", "in-two"):
        live.wait_usable(name)
    images = [first, *map(live.generate, ("kron-and-more", "differences", "in-two"))]
    assert len({plain, *images}) == 5
    assert live.generate("kron") == first
    renamed = lokr(layout, modules, prefix="lora_unet_{f}")
    assert [t[2] for n, t in renamed.tensors.items() if "lokr" in n] == [
        t[2] for n, t in whole.tensors.items() if "lokr" in n
    ]
    live.drop("renamed", pack(renamed.tensors))
    live.wait_usable("renamed")
    assert live.generate("renamed") == first


def test_a_text_encoder_is_ignored_if_it_is_zero_and_else_the_reason_names_it(
    live: LiveService,
) -> None:
    _, lora = forms(live, alpha=0.75)
    up = "text_encoder.layers.0.self_attn.q_proj.lora_B.weight"
    live.drop("plain", pack(lora))
    live.drop("zero", pack(lora | {up: tensor(np.zeros((4, 2)))}))
    live.drop("trained", pack(lora | {up: tensor(np.ones((4, 2)))}))
    live.wait_usable("plain")
    live.wait_usable("zero")
    assert live.generate("zero") == live.generate("plain")

    def reason() -> str:
        adapter = live.adapter("trained")
        return adapter.refusal_reason if adapter is not None else ""

    live.wait(reason, "the trained text encoder refused")
    assert up in reason()
