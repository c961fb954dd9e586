"""Models of the Hugging Face Hub, from the local cache or the network."""

import functools
import re
import socket
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from vit_jax.weights.files import WeightsError, read_json

PREFIX = "hf-hub:"
# Weights and what describes them; never code, never pickles.
PATTERNS = [
    *("config.json", "preprocessor_config.json", "*.npz"),
    *("model*.safetensors", "model*.safetensors.index.json"),
]


def fetch(name: str) -> Path:
    """The local folder of "hf-hub:USER/REPO" or "hf-hub:USER/REPO@REVISION".

    A copy in the local cache is taken as it is, without asking the network for a newer one.

    Raises:
      WeightsError: it is not in the cache and the Hub does not answer or does not have it.
    """
    try:
        from huggingface_hub import constants, errors, snapshot_download
    except ImportError as error:
        raise WeightsError(f"{name}: pip install huggingface_hub, or vit_jax[hub]") from error
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise WeightsError(f"{name}: expected {PREFIX}USER/REPO, or {PREFIX}USER/REPO@REVISION")
    download = functools.partial(
        snapshot_download, repository, revision=revision or None, allow_patterns=PATTERNS
    )
    try:
        folder = Path(download(local_files_only=True))
        if _is_whole(folder):
            return folder
    except errors.HFValidationError as error:
        raise WeightsError(f"{name}: expected {PREFIX}USER/REPO ({error})") from error
    except errors.LocalEntryNotFoundError:
        pass
    cache = constants.HF_HUB_CACHE
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f"{name} is not in the cache, {cache}, and HF_HUB_OFFLINE forbids more")
    host = constants.ENDPOINT
    # Through a proxy, whether the host itself answers says nothing.
    if not urllib.request.getproxies() and not _answers(host):
        raise WeightsError(
            f"{name} is not in the cache, {cache}, and {host} does not answer: connect, or name "
            "a file or folder on this machine"
        )
    try:
        folder = Path(download())
    except (OSError, errors.HfHubHTTPError) as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{name} cannot be had from {host}: {reason}") from error
    if not _holds_weights(folder):
        raise WeightsError(
            f"{name} holds no model.safetensors and no .npz: its weights may be pickles, which are "
            "not fetched. Download them yourself, convert them with safetensors.torch.save_file, "
            "and name the file"
        )
    return folder


def _holds_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.npz"))


def _is_whole(folder: Path) -> bool:
    """Whether weights are there, with all their shards: a download may have been broken off."""
    if not _holds_weights(folder):
        return False
    shards = [read_json(index).get("weight_map", {}) for index in folder.glob("*.index.json")]
    return all((folder / str(name)).exists() for where in shards for name in where.values())


def _answers(endpoint: str, seconds: float = 0.7) -> bool:
    """Whether a connection can be made; huggingface_hub itself would try for half a minute."""
    address = urllib.parse.urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    found = threading.Event()

    def connect() -> None:
        try:
            with socket.create_connection((address.hostname, port), timeout=seconds):
                found.set()
        except OSError:
            pass

    # A thread, since looking up a name has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return found.is_set()
