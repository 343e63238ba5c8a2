"""Looks at this machine: packages, weights, what would make pictures and how fast, and memory.

`palate doctor` prints what `examine` returns. It reads nothing personal: it learns whether there is a vault,
and `look_at_releases` learns until when the server's log of releases is good.
"""

import hashlib
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from palate.client.runtime import Progress, no_progress
from palate.shared.errors import ModelError, PalateError

PACKAGES = (
    "numpy", "pillow", "cryptography", "safetensors", "typer", "rich",
    "torch", "diffusers", "transformers", "peft", "tokenizers", "onnxruntime", "keyring", "pillow-heif",
)  # fmt: skip
OPTIONAL = frozenset({"keyring", "pillow-heif"})
MEASURED_STEPS = 8

# The weights that Palate needs for its job, by the package in whose folder `weights` they are.
WEIGHTS = (
    ("palate.client", "generator/unet/diffusion_pytorch_model.safetensors"),
    ("palate.client", "generator/vae/diffusion_pytorch_model.safetensors"),
    ("palate.client", "generator/text_encoder/model.safetensors"),
    ("palate.client", "vocabulary.safetensors"),
    ("palate.client", "reader/tagger.safetensors"),
    ("palate.client", "picture_tower.safetensors"),
    ("palate.shared", "encoder-0.safetensors"),
)


@dataclass(frozen=True)
class Weight:
    """One file of shipped weights; without size and hash it is missing."""

    file: str
    bytes: int | None
    sha256: str | None


@dataclass(frozen=True)
class Speed:
    """How fast one picture was made, after another one to warm up."""

    steps: int
    seconds: float
    load_seconds: float


@dataclass(frozen=True)
class Health:
    """What `palate doctor` found."""

    palate: str
    python: str
    system: str
    packages: dict[str, str | None]
    weights: tuple[Weight, ...]
    processor: dict[str, Any]
    runs_on: str | None
    speed: Speed | None
    memory: dict[str, int | None]
    vault: dict[str, str | None]
    troubles: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the findings as `palate doctor --json` prints them."""
        return asdict(self) | {"healthy": not self.troubles}


def examine(home: Path, *, measure: bool = True, progress: Progress = no_progress) -> Health:
    """Return what was found on this machine.

    Args:
        home: where the vault is, or would be.
        measure: whether to make two pictures, which takes some seconds, to see how fast that is.
        progress: is told how far the work is.
    """
    troubles: list[str] = []
    packages = {name: _version(name) for name in PACKAGES}
    lacking = [name for name, version in packages.items() if version is None and name not in OPTIONAL]
    if lacking:
        troubles.append(f"not installed: {', '.join(lacking)}; install palate[device]")
    weights = tuple(_weigh(package, file) for package, file in WEIGHTS)
    troubles += [f"{one.file} is missing; install Palate again" for one in weights if one.sha256 is None]
    processor: dict[str, Any] = {"name": platform.processor() or platform.machine(), "cores": _cores()}
    runs_on, speed = None, None
    if packages["torch"] is not None:
        processor |= _torch_facts()
        runs_on = _best(processor)
    if measure and not lacking:
        try:
            speed = _measure(progress)
        except PalateError as error:
            troubles.append(str(error))
    return Health(
        palate=_version("palate") or "not installed",
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} ({platform.machine()})",
        packages=packages,
        weights=weights,
        processor=processor,
        runs_on=runs_on,
        speed=speed,
        memory={"total_bytes": _total_memory(), "peak_bytes": _peak_memory()},
        vault=_vault(home),
        troubles=tuple(troubles),
    )


def look_at_releases(home: Path, passphrase: str | None, now: datetime) -> str:
    """Return what is wrong with the accepted log of releases, in one line, or the empty text.

    It asks nobody for a passphrase: a vault that does not open with what is given, or with the keyring, says
    nothing.
    """
    from palate.client.device import Device
    from palate.client.releases import why_not_good

    try:
        if not Device.exists(home) or (Device.is_locked_by_passphrase(home) and passphrase is None):
            return ""
        with Device.open(home, passphrase if Device.is_locked_by_passphrase(home) else None) as device:
            return why_not_good(device.vault, now)
    except PalateError:
        return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _weigh(package: str, file: str) -> Weight:
    path = resources.files(package).joinpath("weights", *file.split("/"))
    name = f"{package.rpartition('.')[2]}/weights/{file}"
    if not path.is_file():
        return Weight(name, None, None)
    data = path.read_bytes()
    return Weight(name, len(data), hashlib.sha256(data).hexdigest())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _torch_facts() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {
        "threads": torch.get_num_threads(),
        # Without these instructions bfloat16 works too, and is slower than float32.
        "bfloat16": bool(torch.cpu._is_avx512_bf16_supported())
        if hasattr(torch.cpu, "_is_avx512_bf16_supported")
        else None,
        "cuda": torch.cuda.get_device_name() if cuda else None,
        "mps": bool(torch.backends.mps.is_available()),
    }


def _best(processor: dict[str, Any]) -> str:
    if processor["cuda"]:
        return "cuda"
    return "mps" if processor["mps"] else "cpu"


def _measure(progress: Progress) -> Speed:
    from palate.client.painter import Request, load_generator

    start = time.perf_counter()
    generator = load_generator(progress=progress)
    loaded = time.perf_counter()
    request = Request("a lighthouse", count=1, steps=MEASURED_STEPS)
    generator.generate(request)
    warm = time.perf_counter()
    if not generator.generate(request):
        raise ModelError("the shipped generator made no picture; install Palate again")
    return Speed(MEASURED_STEPS, round(time.perf_counter() - warm, 3), round(loaded - start, 3))


def _total_memory() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _peak_memory() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _vault(home: Path) -> dict[str, str | None]:
    from palate.client.vault.folder import read_lock
    from palate.client.vault.format import LOCKED_BY_PASSPHRASE

    try:
        lock = "passphrase" if read_lock(home).lock == LOCKED_BY_PASSPHRASE else "keyring"
        return {"home": str(home), "lock": lock, "trouble": None}
    except PalateError as error:
        return {"home": str(home), "lock": None, "trouble": str(error)}
