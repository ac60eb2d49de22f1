"""A hub repository that is written to: what is there, its card, and one commit of a file and the card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, UploadError, ZenError
from .address import HubSource
from .errors import LOG_IN, first_line, hub_errors, patiently, transport_error
from .settings import endpoint, has_token, is_offline

CARD = "README.md"


@dataclass(frozen=True)
class Repository:
    """What is there now. commit: the newest of the branch, None where the repository is made first; files: by name."""

    commit: str | None = None
    private: bool | None = None
    files: tuple[str, ...] = ()
    new_branch: bool = False


def look_at(source: HubSource) -> Repository:
    """What the hub has of `source`. `InputError` when it may not be asked, or nobody is logged in."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if is_offline():
        raise InputError(
            "HF_HUB_OFFLINE forbids asking the hub", field="repo", hint="unset HF_HUB_OFFLINE and try again"
        )
    if not has_token():
        raise InputError("a push needs a hub token with write permission", field="token", hint=LOG_IN)
    api, info, new_branch = HfApi(), None, False
    with hub_errors(source, UploadError):
        try:
            info = patiently(lambda: api.model_info(source.repo))
            if source.revision is not None:
                info = patiently(lambda: api.model_info(source.repo, revision=source.revision))
        except RevisionNotFoundError:
            new_branch = True
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            new_branch = source.revision not in (None, "main")
    if info is None:
        return Repository(new_branch=new_branch)
    files = tuple(sibling.rfilename for sibling in info.siblings or [])
    return Repository(str(info.sha), bool(info.private), files, new_branch)


def read_card(source: HubSource, commit: str) -> str:
    """The card of the repository at `commit`."""
    from huggingface_hub import hf_hub_download

    with hub_errors(HubSource(source.repo, source.revision, CARD), UploadError):
        path = patiently(lambda: hf_hub_download(source.repo, CARD, revision=commit))
    return Path(path).read_text(encoding="utf-8", errors="replace")


def card_facts(**facts: Any) -> str:
    """The YAML of a card's head."""
    from huggingface_hub import ModelCardData

    return str(ModelCardData(**facts).to_yaml())


def parse_card(text: str) -> Any:
    """A card whose `data` and `text` may be changed; str() of it is the file."""
    from huggingface_hub import ModelCard

    return ModelCard(text, ignore_metadata_errors=True)


def commit(
    source: HubSource, found: Repository, private: bool, files: dict[str, str | bytes], message: str
) -> tuple[str, str]:
    """(commit, its URL) of `files`, name -> a path or the content; what is not there of `source` is made first.

    Raises `UploadError`, and `KeyboardInterrupt` when interrupted, both saying what is on the hub then.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api, repo, revision = HfApi(), source.repo, source.revision
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    state = "nothing was published"
    try:
        with hub_errors(source, UploadError):
            if found.commit is None:
                api.create_repo(repo, private=private)
                state += f"; {repo} was made and is empty"
            if found.new_branch:
                api.create_branch(repo, branch=str(revision), exist_ok=True)
            # What is uploaded before the commit can be seen by nobody, and the next push need not send it again.
            _sent(lambda: api.preupload_lfs_files(repo, operations, revision=revision, free_memory=False))
            state = f"whether the commit was made is not known: look at {endpoint()}/{repo}"
            info = _sent(
                lambda: api.create_commit(
                    repo, operations, commit_message=message, revision=revision, parent_commit=found.commit
                )
            )
    except ZenError as error:
        answered = hasattr(error.__cause__, "response")  # then the hub said no
        error.message += "; nothing was published" if answered and "not known" in state else f"; {state}"
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {state}") from None
    return str(info.oid), str(info.commit_url)


def _sent(send: Callable[[], Any]) -> Any:
    """send(); what an upload raises beside the hub's own errors as `UploadError`."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return send()
    except (RuntimeError, ValueError, OSError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (409, 412):
            raise UploadError("the repository changed in the meantime", hint="push again") from cause
        if isinstance(cause, (transport_error(), ConnectionError, TimeoutError)) and "xet" not in str(cause):
            raise cause  # noqa: B904  the hub's own error, for `hub_errors`
        raise UploadError(
            "the upload failed",
            found=first_line(cause),
            hint="try again; set HF_HUB_DISABLE_XET=1 if the hub or a proxy has no xet storage",
        ) from error
