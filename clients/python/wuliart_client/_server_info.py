"""The answer to GetServerInfo as frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from wuliart.v1 import image_generation_pb2 as pb


@dataclass(frozen=True, slots=True)
class ModelIntroduction:
    """Introduces a model in one language ("en" or "zh"): a summary, and prompts to try."""

    language: str
    summary: str
    example_prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a small model knows: numbers of subjects, of plain backgrounds, of kinds of scenes.

    `introductions` say the same in words, in one language each, English first.
    """

    subjects: int
    backgrounds: int
    settings: int
    introductions: tuple[ModelIntroduction, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model being served.

    `schedules` holds the noise levels of each number of steps from `Limits.min_steps` on, from 1
    down to 0. They are those of `schedule`, a published family or one written out, which is the
    model's for the reason in `schedule_reason`. `warnings` say what keeps images from being as they
    should, `notes` how the weights were stored if that is remarkable. Only the small model that
    ships with the package has a `description`.
    """

    name: str
    embedded: bool
    transformer_parameters: int
    turbo_lora: str
    schedules: tuple[tuple[float, ...], ...]
    schedule: str
    schedule_reason: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    description: ModelDescription | None


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The device: `kind` is "cpu" or "cuda", `dtype` that of weights and activations."""

    kind: str
    name: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a request; width and height in pixels."""

    width: int
    height: int
    jpeg_quality: int
    min_steps: int
    max_steps: int
    default_steps: int
    max_prompt_characters: int
    max_prompt_tokens: int
    max_adapters: int
    max_adapter_weight: float
    max_adapter_rank: int
    adapter_slots: int
    queue_capacity: int


@dataclass(frozen=True, slots=True)
class MemorySegment:
    """One pre-allocated stretch of memory; `location` is "host" or "device"."""

    name: str
    size_bytes: int
    used_bytes: int
    location: str


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server: its model, device, limits and memory, and how busy it is at this moment."""

    version: str
    model: ModelInfo
    device: DeviceInfo
    limits: Limits
    segments: tuple[MemorySegment, ...]
    lora_manager_connected: bool
    queue_length: int


def read_server_info(info: pb.GetServerInfoResponse) -> ServerInfo:
    """Returns the value of a message."""
    model, device, limits = info.model, info.device, info.limits
    return ServerInfo(
        version=info.version,
        model=ModelInfo(
            name=model.name,
            embedded=model.embedded,
            transformer_parameters=model.transformer_parameters,
            turbo_lora=model.turbo_lora,
            schedules=tuple(tuple(schedule.sigmas) for schedule in model.schedules),
            schedule=model.schedule,
            schedule_reason=model.schedule_reason,
            warnings=tuple(model.warnings),
            notes=tuple(model.notes),
            description=(
                _description(model.description) if model.HasField("description") else None
            ),
        ),
        device=DeviceInfo(device.kind, device.name, device.dtype),
        limits=Limits(
            width=limits.width,
            height=limits.height,
            jpeg_quality=limits.jpeg_quality,
            min_steps=limits.min_steps,
            max_steps=limits.max_steps,
            default_steps=limits.default_steps,
            max_prompt_characters=limits.max_prompt_characters,
            max_prompt_tokens=limits.max_prompt_tokens,
            max_adapters=limits.max_adapters,
            max_adapter_weight=limits.max_adapter_weight,
            max_adapter_rank=limits.max_adapter_rank,
            adapter_slots=limits.adapter_slots,
            queue_capacity=limits.queue_capacity,
        ),
        segments=tuple(
            MemorySegment(segment.name, segment.size_bytes, segment.used_bytes, segment.location)
            for segment in info.segments
        ),
        lora_manager_connected=info.lora_manager_connected,
        queue_length=info.queue_length,
    )


def _description(description: pb.ModelDescription) -> ModelDescription:
    return ModelDescription(
        subjects=description.subjects,
        backgrounds=description.backgrounds,
        settings=description.settings,
        introductions=tuple(
            ModelIntroduction(each.language, each.summary, tuple(each.example_prompts))
            for each in description.introductions
        ),
    )
