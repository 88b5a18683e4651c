"""A folder becomes a repository of the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def check_repository(repo: str) -> None:
    """Raises ValueError for what cannot be the name of a repository."""
    try:
        validate_repo_id(repo)
        valid = repo.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise ValueError(f"{repo!r} is no repository; give owner/name")


def push(folder: str | Path, repo: str, *, private: bool = False) -> str:
    """Upload a folder to ``owner/name``, which is made where it is not there; returns the commit's address.

    The token is the one that ``hf auth login`` keeps, or ``HF_TOKEN``: none is taken, kept or written here.

    Raises:
        ValueError: a name that is none, or the hub refuses or cannot be reached, with its reason.

    Example:
        >>> from saes.publishing import push
        >>> push("published", "me/my-sae", private=True)  # doctest: +SKIP
        'https://huggingface.co/me/my-sae/commit/...'
    """
    check_repository(repo)
    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(folder_path=folder, repo_id=repo, commit_message="Publish a sparse autoencoder")
    except Exception as error:  # of the client's own kinds and of whatever HTTP library it uses this year
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{folder} is complete here, and could not be uploaded to {repo} ({said}); log in with `hf auth login`, and"
            f" push it with `hf upload {repo} {folder} .`"
        ) from error
    return str(commit.commit_url)
