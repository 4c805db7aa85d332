"""Fuzz targets `lora` and `keys`: an untrusted .safetensors file, and the names in one.

Any file gives an adapter whose factors fit the model and are finite, or a `LoraError` whose reason
can be shown.
"""

from __future__ import annotations

import numpy as np

from tests.support.bad_lora_files import BAD_FILES
from tests.support.lora_files import (
    CONVENTIONS,
    RawTensor,
    encode,
    lora_tensors,
    make_lora,
    module_features,
    pack,
    peft_metadata,
)
from tests.support.other_forms import differences, lokr
from wuliart_lora import LoraAdapter, LoraError, LoraPlan, plan_lora, read_header, threads
from wuliart_lora.keys import Role, canonicalise
from wuliart_lora.slot_contents import check_capacity
from wuliart_lora.slot_image import build_image, norm_features
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUTS = [
    SegmentLayout(LayoutParameters(1, 4, 8, 2, 2, 3, 2, 2, 4, dtype))
    for dtype in ("float32", "bfloat16")
]
MODULES = module_features(LAYOUTS[0])
NORMS = norm_features(LAYOUTS[0])
CONDITIONING = np.ones((2, 4), np.float32)
USED = ["img_in", "transformer_blocks.0.attn.to_q", "norm_out.linear"]

MAX_REASON_CHARACTERS = 2000
"""Three kinds of problems with a name each, or one shape with its products."""

LOHAS = ((1, "F32"), (2, "BF16"), (2, "F16"))
"""Rank and element type."""
IDLE = ("text_encoder.layers.0.q_proj", "transformer.time_text_embed.timestep_embedder.linear_1")

MAX_SEED_BYTES = 16 << 10


def run(data: bytes) -> None:
    """Reads the bytes as a file, and packs the adapter in both element types."""
    # With more threads, the coverage would depend on their order.
    threads.MOST = 1  # type: ignore[misc]
    try:
        plan, adapter = _read(memoryview(data).toreadonly())
    except LoraError as error:
        _check_reason(error)
        return
    _check_adapter(adapter)
    for layout in LAYOUTS:
        try:
            check_capacity(plan, layout)
            image = build_image(adapter, layout, CONDITIONING)
        except LoraError as error:
            _check_reason(error)
            continue
        packing = layout.packing(image.packed_rank, image.sites, image.kronecker)
        assert image.data.nbytes == packing.nbytes <= layout.slot_bytes
        assert set(packing.kronecker) == set(image.kronecker)
        assert len(image.checksum) == 16
        assert set(packing.offsets) == set(image.sites)


def _read(data: memoryview) -> tuple[LoraPlan, LoraAdapter]:
    plan = plan_lora(read_header(data, len(data)), MODULES, 4, norms=NORMS)
    return plan, plan.read(data)


def run_keys(data: bytes) -> None:
    """Reads the bytes as names, one a line."""
    names = list(dict.fromkeys(data.decode("utf-8", "replace").split("\n")))
    try:
        found, idle = canonicalise(names, MODULES, NORMS)
    except LoraError as error:
        _check_reason(error)
        return
    layers = [*found.values(), *(roles for part in idle.values() for roles in part)]
    given = [name for roles in layers for name in roles.values()]
    assert sorted(given) == sorted(names)
    assert found.keys() <= MODULES.keys() | NORMS.keys()
    assert all(isinstance(role, Role) for roles in layers for role in roles)


def seeds() -> dict[str, bytes]:
    """Returns a small valid file of every convention, and every kind of bad one."""
    good = {
        f"convention_{convention}": make_lora(
            LAYOUTS[0], rank=2, modules=USED, convention=convention
        )
        for convention in CONVENTIONS
    }
    notes = {
        "title": "Ink",
        "trigger_words": '["a", "b"]',
        "lora_adapter_metadata": peft_metadata(
            r=2, lora_alpha=1, use_rslora=True, rank_pattern={"img_in": 2}, use_dora=False
        ),
    }
    good["noted"] = make_lora(LAYOUTS[0], rank=2, modules=USED, metadata=notes)
    good["half"] = make_lora(LAYOUTS[0], rank=1, modules=USED, convention="kohya", dtype="BF16")
    good |= {f"loha_{rank}_{dtype}": _loha(rank, dtype) for rank, dtype in LOHAS}
    good |= _other_forms()
    zeros: RawTensor = ("F32", (2, 4), bytes(32))
    parts = {f"{part}.lora_{half}.weight": zeros for part in IDLE for half in "AB"}
    good["idle_parts"] = pack(lora_tensors(LAYOUTS[0], rank=2, modules=USED) | parts)
    bad = {f"bad_{name}": bad.make(LAYOUTS[0]) for name, bad in BAD_FILES.items()}
    return {name: data for name, data in (good | bad).items() if len(data) <= MAX_SEED_BYTES}


def _other_forms() -> dict[str, bytes]:
    """Returns LoKrs of every kind of factors, and differences beside them and alone."""
    layout = LAYOUTS[0]
    halves = lokr(layout, USED, first_rank=1, second_rank=1, alpha=2.0, prefix="lycoris_{f}")
    second = lokr(layout, USED, second_rank=2, alpha=1.0, prefix="lora_unet_{f}", dtype="F16")
    whole = lokr(layout, USED, alpha=np.inf, alpha_dtype="F16", dtype="BF16")
    vectors = differences(layout, USED, NORMS)
    low_rank = lora_tensors(layout, rank=2, modules=USED, convention="diffusion_model")
    return {
        "lokr_whole": pack(whole.tensors),
        "lokr_halves": pack(halves.tensors),
        "lokr_second": pack(second.tensors),
        "lokr_and_differences": pack((whole | vectors).tensors),
        "differences": pack(vectors.tensors),
        "lora_and_differences": pack(low_rank | vectors.tensors),
    }


def _loha(rank: int, dtype: str) -> bytes:
    """Returns a LoHa of every module in `USED`, with an alpha."""
    prefix = {1: "lora_unet_{f}", 2: "diffusion_model.{m}"}[rank]
    tensors: dict[str, RawTensor] = {}
    for module in USED:
        inner, outer = MODULES[module]
        path = prefix.format(m=module, f=module.replace(".", "_"))
        for part, shape in zip("abab", ((outer, rank), (rank, inner)) * 2, strict=True):
            product = 1 if f"{path}.hada_w1_{part}" not in tensors else 2
            values = np.full(shape, 0.5)
            tensors[f"{path}.hada_w{product}_{part}"] = (dtype, shape, encode(values, dtype))
        tensors[f"{path}.alpha"] = ("F32", (), encode(np.array(1.0), "F32"))
    return pack(tensors)


def key_seeds() -> dict[str, bytes]:
    """Returns the names of each convention."""
    loha = "\n".join(f"lycoris_img_in.hada_w{n}_{half}" for n in (1, 2) for half in "ab")
    lokr_names = "\n".join(
        f"diffusion_model.img_in.lokr_w{n}{half}" for n in (1, 2) for half in ("", "_a", "_b")
    )
    vectors = "\n".join([*(f"{norm}.diff" for norm in NORMS), "img_in.diff_b", "proj_out.diff"])
    return {
        "loha": loha.encode(),
        "lokr": lokr_names.encode(),
        "differences": vectors.encode(),
        "idle": "\n".join(f"{p}.lora_B.weight" for p in IDLE).encode(),
    } | {
        name: "\n".join(
            pattern.format(m=module, f=module.replace(".", "_"))
            for module in USED
            for pattern in (convention.down, convention.up, convention.alpha)
            if pattern is not None
        ).encode()
        for name, convention in CONVENTIONS.items()
    }


def _check_reason(error: LoraError) -> None:
    assert error.reason.isprintable(), ascii(error.reason)
    assert 0 < len(error.reason) <= MAX_REASON_CHARACTERS
    error.reason.encode()


def _check_adapter(adapter: LoraAdapter) -> None:
    assert adapter.rank <= 4
    assert adapter.rank == max((f.rank for f in adapter.factors.values()), default=0)
    assert adapter.factors or adapter.kronecker or adapter.biases or adapter.norms
    for module, stored in adapter.kronecker.items():
        (a, b), (c, d) = (factor.shape for factor in stored.widened())
        assert (b * d, a * c) == MODULES[module] and stored.first_shape == (a, b)
        assert all(np.isfinite(factor).all() for factor in stored.widened())
    for module, bias in adapter.biases.items():
        assert bias.shape == MODULES[module][1:] and np.isfinite(bias).all()
    for norm, weight in adapter.norms.items():
        assert weight.shape == (NORMS[norm],) and np.isfinite(weight).all()
    for module, factors in adapter.factors.items():
        inner, outer = MODULES[module]
        assert factors.down.shape == (factors.rank, inner)
        assert factors.up.shape == (outer, factors.rank)
        assert np.isfinite(factors.down).all() and np.isfinite(factors.up).all()
        if (bits := adapter.factors.bfloat16(module)) is not None:
            assert bits.down.shape == factors.down.shape and bits.up.shape == factors.up.shape
    for text in (adapter.title or "", *adapter.trigger_words, *adapter.notes):
        assert text.isprintable() and text == text.strip() and len(text) <= 120
        text.encode()
