"""Hub push: a stored profile -> a hub repository; first a plan that can be shown, then one commit of profile and card.

Nothing but those two files is ever sent. The commit is made whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..base import registry
from ..errors import InputError, ZenError
from ..format.read import read_header
from ..format.spec import Facts
from ..hub.address import HubSource, check_repo, check_revision
from ..hub.publish import CARD, Repository, commit, look_at, read_card
from ..hub.settings import endpoint
from ..paths import SUFFIX
from .card import make_card
from .store import ProfileStore

_EMBEDDED_REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class PushPlan:
    """What a push will do. found: what the hub has of the repository now.

    card: README.md as it will be, None when the repository's own stays. replaces: a file of that name is there.
    """

    profile: str
    path: Path
    file: str
    file_bytes: int
    sha256: str
    repo: str
    endpoint: str
    private: bool
    revision: str | None
    found: Repository
    replaces: bool
    base_model: str | None
    card: str | None


@dataclass(frozen=True)
class Pushed:
    """What was published. url: of the commit."""

    commit: str
    url: str


def plan_push(
    store: ProfileStore, name: str, repo: str, *, private: bool = True, revision: str | None = None
) -> PushPlan:
    """Check every byte of profile `name` and ask the hub about `repo`; nothing of the profile is sent.

    `InputError` without a token, or when `repo` is public and `private` was asked for (or the other way round).
    """
    source = HubSource(check_repo(repo), None if revision is None else check_revision(revision))
    facts = store.load(name)
    found = look_at(source)
    if found.private is not None and found.private != private:
        now, flag = ("private", "--private") if found.private else ("public: everyone can read it", "--public")
        raise InputError(
            f"{repo} is {now}",
            field="private",
            expected="private" if private else "public",
            found="private" if found.private else "public",
            hint=f"use {flag} if that is what you want, or name another repository",
        )
    file, base_model = f"{name}{SUFFIX}", _base_model(facts)
    existing = read_card(source, found.commit) if found.commit is not None and CARD in found.files else None
    return PushPlan(
        profile=name,
        path=store.path(name),
        file=file,
        file_bytes=facts.file_bytes or 0,
        sha256=facts.sha256 or "",
        repo=repo,
        endpoint=endpoint(),
        private=private,
        revision=revision,
        found=found,
        replaces=file in found.files,
        base_model=base_model,
        card=make_card(existing, facts, repo, file, base_model),
    )


def push(plan: PushPlan, message: str | None = None) -> Pushed:
    """Make the repository or branch where there is none, then commit the profile and its card.

    Raises `UploadError`, and `KeyboardInterrupt` when interrupted, both saying what is on the hub then.
    """
    if read_header(plan.path).sha256 != plan.sha256:
        raise InputError(f"{plan.profile} changed in the meantime", path=plan.path, hint="push it again")
    files: dict[str, str | bytes] = {plan.file: str(plan.path)}
    if plan.card is not None:
        files[CARD] = plan.card.encode()
    source = HubSource(plan.repo, plan.revision)
    return Pushed(*commit(source, plan.found, plan.private, files, message or f"Add {plan.file}"))


def _base_model(facts: Facts) -> str | None:
    """The hub id of the profile's base, where its name says one."""
    model = str(facts.base.get("model") or "")
    if model == registry.EMBEDDED:
        return _EMBEDDED_REPO
    try:
        source = registry.resolve(model)
    except ZenError:
        return None
    return source.repos[0] if source.kind == "hub" else None
