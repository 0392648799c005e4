"""From the name of a model to a local folder."""

from __future__ import annotations

import os
import pathlib
import re

from vtjax.errors import VtjaxError

_SETTINGS = ("*.json", "*.txt", "*.model")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def local_folder(folder_or_hub_id: str | os.PathLike[str]) -> pathlib.Path:
    """Gives the folder itself, or a snapshot of a Hugging Face hub repository with its settings, tokenizer and weights.

    Weights are safetensors; `.bin` only where the repository has no safetensors, open_clip's and adapters where it has
    no others.
    An environment with HF_HUB_OFFLINE=1 is served from the local cache alone.

    Raises:
      VtjaxError: no such folder, no such repository, no access, or not in the cache while offline.
    """
    folder = pathlib.Path(folder_or_hub_id).expanduser()
    name = str(folder_or_hub_id)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise VtjaxError(f"{folder}: is a file; expected the folder that holds config.json and the weights")
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise VtjaxError(f"{name}: no such folder, and not a hub id of the form owner/name")
    for weights in ("model*.safetensors", "pytorch_model*.bin", "open_clip_model*.safetensors", "adapter_model*"):
        snapshot = _download(name, (*_SETTINGS, weights))
        if any(snapshot.glob(weights)):
            break
    return snapshot


def _download(name: str, patterns: tuple[str, ...]) -> pathlib.Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns)))
    except errors.GatedRepoError as error:
        raise VtjaxError(f"{name}: its licence must be accepted on the hub first; then: hf auth login") from error
    except errors.RepositoryNotFoundError as error:
        raise VtjaxError(f"{name}: neither a folder here nor a repository on the Hugging Face hub") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise VtjaxError(
            f"{name}: no such folder, and the hub is offline and has no copy in its cache; "
            "give a folder with config.json and model.safetensors, or fetch it once: hf download " + name
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise VtjaxError(f"{name}: could not be fetched from the Hugging Face hub ({error})") from error
