"""The server's settings: one frozen dataclass, filled once from the command line."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NoReturn, get_args

from inference_server.logs import Form
from inference_server.model_parts import MODEL_HELP, ModelParts, add_part_options, take_parts
from inference_server.network import NAMES, Network, add_arguments, conflict_in
from inference_server.weight_kind import WeightKind
from wuliart_process.sockets import default_runtime_dir, runtime_dir_problem

EMBEDDED_MODEL = Path(__file__).parent / "embedded" / "checkpoint"
EMBEDDED_TURBO = EMBEDDED_MODEL.with_name("turbo.safetensors")

SCHEDULE_HELP = (
    "noise levels of the steps: lightning, lightning-8, turbo, turbo-2, checkpoint (the scheduler "
    "config's own), or written out like shift=3 or mu=0.916,terminal=.7155,steps=2 or "
    "sigmas=1,.7155; default: those that the Turbo LoRA was trained on"
)


class OnBadAdapter(StrEnum):
    """The server's reaction to a request that names an adapter which cannot be used."""

    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of one server process."""

    model: Path = EMBEDDED_MODEL
    """A folder or file; see `loading.sources.open_checkpoint`."""
    parts: ModelParts = field(default_factory=ModelParts)
    """Where the parts come from that the model lacks."""
    turbo_lora: Path | None = EMBEDDED_TURBO
    """Few-step LoRA that is fused into the base at load; None for none."""
    schedule: str | None = None
    """Value of `--schedule`; None: the noise levels that the Turbo LoRA was trained on."""
    network: Network = field(default_factory=Network)
    runtime_dir: Path = Path("/tmp")
    """Folder of the sockets that only the LoRA manager uses."""
    device: str = "auto"
    dtype: str = "auto"
    weights: WeightKind | None = None
    """Storage of the blocks' matrices; None: as the model has them."""
    slots: int | None = None
    """Adapters resident at once, not counting the spare slot; None: chosen by the budget."""
    max_rank: int | None = None
    """Largest rank of an adapter; None: chosen by the budget."""
    pinned_adapters: tuple[str, ...] = ()
    """Adapters that are never evicted once they are resident."""
    on_bad_adapter: OnBadAdapter = OnBadAdapter.FAIL
    vram_budget: int | None = None
    """Maximum bytes on the device; None: the card's free memory, less a margin."""
    idle_vram: int | None = None
    """Maximum bytes on the device between images; None: the memory plan decides."""
    max_batch: int | None = None
    """Images that may share a step; None: see `loading.batch_limit`."""
    queue: int = 64
    """Requests that may wait."""
    grace: float = 30.0
    """Seconds accepted requests get at shutdown."""
    metrics: str = ""
    """HOST:PORT of the Prometheus metrics; empty: not served."""
    log_level: str = "INFO"
    log_format: Form = "text"
    log_prompts: bool = False
    """Write prompts to the log."""

    @property
    def embedded(self) -> bool:
        """True for the model that ships with the package."""
        return self.model == EMBEDDED_MODEL


UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def size(text: str) -> int:
    """Parses a size like 18.7GB or 24GiB into bytes.

    Raises:
        argparse.ArgumentTypeError: the text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    if match is None or match[2].upper() not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write it like 18.7GB or 24GiB")
    return round(float(match[1]) * UNITS[match[2].upper()])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exits with one line, without argparse's usage."""
        self.exit(2, f"{self.prog}: error: {message}; see --help\n")


def parse_arguments(arguments: list[str] | None = None) -> Config:
    """Parses the command line; exits with 2 and one line if it is invalid."""
    defaults = Config()
    parser = _Parser(
        prog="wuliart-server",
        description="Generates 1024x1024 images with Qwen-Image and streams progress over gRPC.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--model",
        type=Path,
        default=EMBEDDED_MODEL,
        help=f"a prepared folder; or {MODEL_HELP}",
    )
    add_part_options(parser)
    add(
        "--turbo-lora",
        type=Path,
        metavar="FILE",
        help="few-step LoRA to fuse into the base at load; default: the embedded model's own, for"
        " another --model none",
    )
    add("--schedule", metavar="NAME", help=SCHEDULE_HELP)
    add("--runtime-dir", type=Path, default=default_runtime_dir(), help="sockets for the manager")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16"],
        help="auto: bfloat16 on a GPU",
    )
    add(
        "--weights",
        type=WeightKind,
        choices=list(WeightKind),
        help="bf16, or fp8: half the memory and faster on Ada, Hopper and later, not lossless;"
        " default: as the model has them",
    )
    add(
        "--slots",
        type=int,
        metavar="N",
        help="adapters in memory at once; default: 2 to 8, by the budget, 4 on a CPU",
    )
    add(
        "--max-rank",
        type=int,
        metavar="N",
        help="largest rank of an adapter; default: 16 to 64, by the budget, 32 on a CPU",
    )
    add(
        "--pin-adapter",
        dest="pinned_adapters",
        metavar="NAME",
        action="append",
        default=[],
        help="never evict this adapter once it is in memory; may be repeated, but one slot must"
        " stay for all others",
    )
    add(
        "--on-bad-adapter",
        type=OnBadAdapter,
        choices=list(OnBadAdapter),
        default=defaults.on_bad_adapter,
        help="if a request names an adapter that does not exist or was refused: fail the request,"
        " or generate without the adapter and report it as skipped",
    )
    add(
        "--vram-budget",
        type=size,
        metavar="SIZE",
        help="maximum device memory, like 18.7GB; default: what the card has free, less a margin."
        " What does not fit waits in host memory and is streamed",
    )
    add(
        "--idle-vram",
        type=size,
        metavar="SIZE",
        help="maximum device memory between images; default: the budget, or 60 %% of it if blocks"
        " are streamed",
    )
    add(
        "--max-batch",
        type=int,
        metavar="N",
        help="images that may share a step; default: as many as hide the copying of streamed"
        " weights on this machine, up to 4, and 1 where nothing is streamed",
    )
    add("--queue", type=int, default=defaults.queue, help="requests that may wait")
    add("--grace", type=float, default=defaults.grace, help="seconds for running images at exit")
    add(
        "--metrics",
        default="",
        metavar="HOST:PORT",
        help="serve Prometheus metrics there, at /metrics",
    )
    add("--log-level", default=defaults.log_level, choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    add(
        "--log-format",
        default=defaults.log_format,
        choices=get_args(Form),
        help="lines of text or of JSON",
    )
    add("--log-prompts", action="store_true", help="write prompts to the log")
    add_arguments(parser)
    values = parser.parse_args(arguments)
    values.network = Network(**{name: vars(values).pop(name) for name in NAMES})
    values.parts = take_parts(values)
    if conflict := conflict_in(values.network):
        parser.error(conflict)
    if values.slots is not None and values.slots < 1:
        parser.error("--slots must be at least 1")
    values.pinned_adapters = tuple(dict.fromkeys(values.pinned_adapters))
    if "" in values.pinned_adapters:
        parser.error("--pin-adapter needs a name, as `wuliart adapters` lists it")
    pinned = len(values.pinned_adapters)
    if values.slots is not None and pinned >= values.slots:
        parser.error(
            f"--pin-adapter pins {pinned} of {values.slots} slots, which leaves none for other"
            f" adapters; use --slots {pinned + 1} or more, or pin fewer"
        )
    if values.max_rank is not None and values.max_rank < 1:
        parser.error("--max-rank must be at least 1")
    if values.max_batch is not None and values.max_batch < 1:
        parser.error("--max-batch must be at least 1")
    if values.queue < 1:
        parser.error("--queue must be at least 1")
    if not values.grace >= 0:
        parser.error("--grace must be a number of seconds, not negative")
    values.runtime_dir = values.runtime_dir.absolute()
    if problem := runtime_dir_problem(values.runtime_dir):
        parser.error(problem)
    if values.turbo_lora is None and values.model == EMBEDDED_MODEL:
        values.turbo_lora = EMBEDDED_TURBO
    return Config(**vars(values))
