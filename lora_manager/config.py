"""The manager's configuration: its options, their defaults and their checks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from lora_manager.verdict_file import default_cache_dir
from wuliart_process.sockets import default_runtime_dir, runtime_dir_problem

INJECT: Final = ("staged", "direct")

LOG_LEVELS: Final = ("debug", "info", "warning", "error")


class ConfigError(ValueError):
    """The command line cannot be followed; the message is one line for the user."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's usage in front of it."""
        self.exit(2, f"{self.prog}: error: {message}; see --help\n")


@dataclass(frozen=True, slots=True)
class ManagerConfig:
    """All settings of the manager."""

    loras: Path
    """The directory to watch."""
    runtime_dir: Path
    """The folder of the server's sockets."""
    rescan_seconds: float = 2.0
    """Between two full scans of the directory."""
    poll: bool = False
    """True to do without inotify, for network mounts."""
    max_file_bytes: int = 2 << 30
    """Larger files are refused without being read."""
    inject: str = "staged"
    """How adapters reach a GPU: through host memory, or written into its memory from here."""
    cache_dir: Path | None = None
    """The folder that keeps verdicts on files between runs; None keeps none."""
    log_level: str = "info"
    log_format: str = "text"
    """Or "json"."""


def parse_config(arguments: Sequence[str], environment: Mapping[str, str]) -> ManagerConfig:
    """Read the command line and create the watched directory if it is missing.

    Raises ConfigError if a value makes no sense, SystemExit for what argparse itself
    answers (--help, unknown options).
    """
    parser = _Parser(
        prog="wuliart-lora-manager",
        description="Watches a directory of LoRA files and keeps the inference server's adapter "
        "slots in step with it.",
    )
    parser.add_argument(
        "--loras", type=Path, default=Path("loras"), metavar="DIR",
        help="directory to watch; created if missing (default: ./loras)",
    )  # fmt: skip
    parser.add_argument(
        "--runtime-dir", type=Path, metavar="DIR",
        help="where the server's sockets lie (default: $WULIART_RUNTIME_DIR, else "
        "$XDG_RUNTIME_DIR/wuliart, else ~/.local/state/wuliart/run, else /tmp/wuliart-<uid>)",
    )  # fmt: skip
    parser.add_argument(
        "--rescan-seconds", type=float, default=2.0, metavar="S",
        help="time between two full scans (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--poll", action="store_true",
        help="do without inotify; for network mounts, which send no events",
    )  # fmt: skip
    parser.add_argument(
        "--max-file-bytes", type=int, default=2 << 30, metavar="N",
        help="refuse larger files (default: 2 GiB)",
    )  # fmt: skip
    parser.add_argument(
        "--inject", choices=INJECT, default="staged",
        help="how adapters reach the server's GPU: through shared host memory, from which the "
        "server copies, or written into the GPU's memory by the manager, which costs a CUDA "
        "context there (default: staged)",
    )  # fmt: skip
    parser.add_argument("--log-level", choices=LOG_LEVELS, default="info")
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="lines of text or of JSON"
    )
    options = parser.parse_args(arguments)
    if not 0.05 <= options.rescan_seconds <= 3600:
        raise ConfigError(
            f"--rescan-seconds must be from 0.05 to 3600, not {options.rescan_seconds}"
        )
    if options.max_file_bytes < 1:
        raise ConfigError(f"--max-file-bytes must be at least 1, not {options.max_file_bytes}")
    runtime_dir = (options.runtime_dir or default_runtime_dir(environment)).absolute()
    if problem := runtime_dir_problem(runtime_dir):
        raise ConfigError(problem)
    return ManagerConfig(
        loras=_directory(options.loras),
        runtime_dir=runtime_dir,
        rescan_seconds=options.rescan_seconds,
        poll=options.poll,
        max_file_bytes=options.max_file_bytes,
        inject=options.inject,
        cache_dir=default_cache_dir(environment),
        log_level=options.log_level,
        log_format=options.log_format,
    )


def _directory(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"--loras must be a directory, and {path} is a file") from None
    except OSError as error:
        raise ConfigError(f"--loras {path} cannot be created: {error.strerror}") from None
    return path.absolute()
