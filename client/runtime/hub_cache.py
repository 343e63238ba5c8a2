"""Finds the model that a person names: a folder, or a commit of the Hugging Face hub in this machine's cache.

A model of the hub is named `OWNER/NAME@COMMIT`. A name alone stands for whatever its owner puts there next,
and a branch or tag can be moved; the 40 digits of a commit name one content for good. Nothing is fetched
here, so a mistyped folder cannot become a stranger's model: the person fetches with the hub's own program,

    hf download OWNER/NAME --revision COMMIT

whose cache has the documented form `models--OWNER--NAME/snapshots/COMMIT`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from palate.shared.errors import ModelError

_HUB_ID = re.compile(r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(@(?P<commit>[\w./-]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_model(model: str | Path, argument: str = "model") -> tuple[Path, str]:
    """Return the folder that a person means, and a name for it that tells nothing about this machine.

    Args:
        model: a folder, or OWNER/NAME@COMMIT.
        argument: the name of the option, for the message.

    Raises:
        ModelError: neither a folder nor a commit in the cache; says the next step.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve(), path.resolve().name
    said = f"{argument} = {str(model)!r}"
    found = _HUB_ID.fullmatch(model) if isinstance(model, str) and not path.exists() else None
    if found is None:
        raise ModelError(
            f"{said} is neither a folder nor a hub id with its commit; give a folder, or OWNER/NAME@COMMIT"
        )
    repository, commit = f"{found['owner']}/{found['name']}", found["commit"] or ""
    snapshots = hub_cache() / f"models--{found['owner']}--{found['name']}" / "snapshots"
    if not _COMMIT.fullmatch(commit):
        kept = sorted(one.name for one in snapshots.iterdir()) if snapshots.is_dir() else []
        here = f" (in this machine's cache: {repository}@{kept[0]})" if kept else ""
        raise ModelError(
            f"{said} is no folder; if a model of the hub is meant, name its commit by 40 hexadecimal digits: "
            f"OWNER/NAME@COMMIT{here}"
        )
    if not (snapshots / commit).is_dir():
        raise ModelError(
            f"{said} is not in this machine's cache of the hub, and Palate fetches nothing; fetch it with: "
            f"hf download {repository} --revision {commit}"
        )
    return snapshots / commit, f"{repository}@{commit}"


def refuse_reference(folder: Path, name: str) -> None:
    """Raise `ModelError` for a model that sends the loader elsewhere.

    Where an `adapter_config.json` lies next to weights, transformers loads the model that is named in it
    instead, even from the hub.
    """
    for pattern in ("adapter_config.json", "*/adapter_config.json"):
        for found in folder.glob(pattern):
            raise ModelError(
                f"model = {name!r} holds {found.relative_to(folder).as_posix()}, which names another model; "
                "give that model itself"
            )


def hub_cache() -> Path:
    """Return the cache of the hub's own programs: HF_HUB_CACHE, a folder in HF_HOME, or the usual place."""
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "huggingface" / "hub"
