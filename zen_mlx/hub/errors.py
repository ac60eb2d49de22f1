"""Errors of huggingface_hub -> errors of zen_mlx, a sentence and a remedy each; a wait where the hub asks for one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from ..errors import DownloadError, InputError, ModelNotFoundError, ProfileNotFoundError, UploadError, ZenError
from .address import HubSource
from .settings import endpoint, has_token

T = TypeVar("T")
Failed = type[DownloadError] | type[UploadError]
Missing = type[ModelNotFoundError]
MAX_WAIT_S = 60
_TRIES = 5
LOG_IN = "set HF_TOKEN or run `hf auth login`"


def transport_error() -> type[Exception]:
    """The base of all errors of the HTTP client, which differs between versions of huggingface_hub."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__mro__[1]


def patiently(call: Callable[[], T]) -> T:
    """call(), again after the pause the hub asks for (429, Retry-After) as long as that is under `MAX_WAIT_S`."""
    from huggingface_hub.errors import HfHubHTTPError

    for _ in range(_TRIES):
        try:
            return call()
        except HfHubHTTPError as error:
            wait = retry_after_s(error)
            if error.response.status_code != 429 or wait is None or wait > MAX_WAIT_S:
                raise
        time.sleep(wait)
    return call()


def retry_after_s(error: Any) -> int | None:
    """Seconds after which the hub wants to be asked again, where it says so."""
    value = str(error.response.headers.get("Retry-After", "")).strip()
    return int(value) if value.isdigit() else None


@contextlib.contextmanager
def hub_errors(source: HubSource, kind: Failed = DownloadError, missing: Missing | None = None) -> Iterator[None]:
    """Turn what the hub and the network raise in the block into `kind`, `ProfileNotFoundError` or `InputError`.

    missing: raised where `source` is not of a profile, and only for a repository that is not there or has no valid name.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        FileMetadataError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise kind(
            f"the hub gives {source.repo} only to users who accepted its terms",
            field="repo",
            hint=f"accept them on the page of {source.repo}, then {LOG_IN}",
        ) from error
    except RepositoryNotFoundError as error:
        _no_repository(source, error, missing)
    except RevisionNotFoundError as error:
        raise (kind if missing else ProfileNotFoundError)(
            f"{source.repo} has no revision {source.revision or 'main'!r}",
            field="revision",
            hint="name a branch, a tag or a commit of it, or leave the revision out",
        ) from error
    except LocalEntryNotFoundError as error:
        _no_connection(kind, error)
    except EntryNotFoundError as error:
        raise (kind if missing else ProfileNotFoundError)(
            f"{source.repo} has no file {source.file!r}" + (f" at {source.revision}" if source.revision else ""),
            field="file",
            hint="leave --file out to see which profiles it holds",
        ) from error
    except HFValidationError as error:
        raise (missing or InputError)(
            "not a hub repository", field="repo", expected="OWNER/NAME", found=source.repo
        ) from error
    except LocalTokenNotFoundError as error:
        raise InputError("the hub requires a login", field="token", hint=LOG_IN) from error
    except HfHubHTTPError as error:
        _status(source, kind, error, missing)
    except (FileMetadataError, ValueError, KeyError, TypeError) as error:  # the last three: a document of another shape
        raise no_hub(kind, first_line(error)) from error
    except (transport_error(), ConnectionError, TimeoutError) as error:
        _no_connection(kind, error)
    except OSError as error:
        raise kind("the transfer broke off", found=first_line(error), hint="try again") from error


def no_hub(kind: Failed, found: str) -> ZenError:
    """Something answers, such as the login page of a network, but it is no hub."""
    hint = "check HF_ENDPOINT, and any proxy or login page before the hub"
    return kind("the server does not answer like a hub", path=endpoint(), found=found, hint=hint)


def first_line(error: BaseException) -> str:
    """What `error` says, one line, without the query of a signed URL."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return " ".join(word.partition("?")[0] if "://" in word else word for word in text.split())


def _no_connection(kind: Failed, error: BaseException) -> NoReturn:
    hint = "check the connection and try again"
    raise kind("the hub cannot be reached", path=endpoint(), found=first_line(error), hint=hint) from error


def _no_repository(source: HubSource, error: Any, missing: Missing | None) -> NoReturn:
    raise (missing or ProfileNotFoundError)(
        f"the hub has no repository {source.repo}, or it is private",
        field="repo",
        found=source.repo,
        hint=f"check the name; if it is private, {LOG_IN}",
    ) from error


def _status(source: HubSource, kind: Failed, error: Any, missing: Missing | None) -> NoReturn:
    status = error.response.status_code
    said = getattr(error, "server_message", None)
    found = f"HTTP {status}" + (f": {said.strip().splitlines()[0][:200]}" if said and said.strip() else "")
    if status == 401 and not has_token():
        _no_repository(source, error, missing)
    if status == 401:
        raise kind("the hub does not accept the token", field="token", found=found, hint=LOG_IN) from error
    if status == 403:
        hint = "use a token with that permission: HF_TOKEN, or `hf auth login`"
        raise kind(f"the token does not allow this for {source.repo}", field="token", found=found, hint=hint) from error
    if status == 429:
        wait = retry_after_s(error)
        when = f"in {wait} s" if wait is not None else "in a few minutes"
        raise kind("too many requests to the hub", path=endpoint(), found=found, hint=f"try again {when}") from error
    raise kind("the hub refused the request", path=endpoint(), found=found, hint="try again later") from error
