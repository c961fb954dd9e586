"""Models of the Hugging Face Hub, from the local cache or the network."""

import functools
import socket
import threading
from pathlib import Path

from vit_jax.weights.files import WeightsError

PREFIX = "hf-hub:"
# Weights and what describes them; never code, never pickles.
PATTERNS = ["config.json", "preprocessor_config.json", "model*.safetensors*", "*.npz"]


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
    download = functools.partial(
        snapshot_download, repository, revision=revision or None, allow_patterns=PATTERNS
    )
    try:
        folder = Path(download(local_files_only=True))
        if any(folder.glob("*.safetensors*")) or any(folder.glob("*.npz")):
            return folder
    except errors.HFValidationError as error:
        raise WeightsError(f"{name}: expected {PREFIX}USER/REPO ({error})") from error
    except errors.LocalEntryNotFoundError:
        pass
    cache = constants.HF_HUB_CACHE
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f"{name} is not in the cache, {cache}, and HF_HUB_OFFLINE forbids more")
    host = constants.ENDPOINT.split("//")[-1].split("/")[0]
    if not _answers(host):
        raise WeightsError(
            f"{name} is not in the cache, {cache}, and {host} does not answer: connect, or name "
            "a file or folder on this machine"
        )
    try:
        return Path(download())
    except (OSError, errors.HfHubHTTPError) as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{name} cannot be had from {host}: {reason}") from error


def _answers(host: str, seconds: float = 0.7) -> bool:
    """Whether a connection can be made; huggingface_hub itself would try for half a minute."""
    name, _, port = host.partition(":")
    found = threading.Event()

    def connect() -> None:
        try:
            with socket.create_connection((name, int(port or 443)), timeout=seconds):
                found.set()
        except OSError:
            pass

    # A thread, since looking up a name has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return found.is_set()
