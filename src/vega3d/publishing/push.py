"""Pushing to the Hub: who may, what a push would replace there, and one commit that is made whole or not at all."""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from vega3d.shipped import hub_reason

if TYPE_CHECKING:  # it imports torch, which refusals do without
    from vega3d.publishing.content import Content

MAIN = "main"
LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN, by a token that may write."
BLOCK = 1 << 20  # bytes that are hashed at a time
LOADED = re.compile(r"(.*/)?[\w-]+\.safetensors(\.index\.json)?")  # what loaders look for beside what is pushed


@dataclass(frozen=True)
class Changes:
    """What a push would do on the Hub.

    Attributes:
        commit: that the changes start from; None if there is no repository yet.
        added: paths that are not there.
        replaced: paths that are there with other content.
        removed: weights of an earlier push, which loaders would take in place of those of this one.
        same: paths that are there already.
        kept: other paths there, which stay as they are.
    """

    commit: str | None = None
    added: Sequence[str] = ()
    replaced: Sequence[str] = ()
    removed: Sequence[str] = ()
    same: Sequence[str] = ()
    kept: Sequence[str] = ()


@dataclass(frozen=True)
class Target:
    """Where a push goes.

    Attributes:
        repo_id: `org/name`.
        revision: the branch; made if it is not there.
        private: whether a new repository is private.
        create_pr: propose the changes in a pull request.
        replace: whether files that are there with other content may be replaced.
        message: of the commit, not blank.
    """

    repo_id: str
    revision: str = MAIN
    private: bool = False
    create_pr: bool = False
    replace: bool = False
    message: str = "Push with vega3d"


def check_target(target: Target) -> None:
    """Raises ValueError, before anything is read, for a name that no repository can have, or options that disagree."""
    try:
        validate_repo_id(target.repo_id)
        is_name = target.repo_id.count("/") == 1
    except HFValidationError:
        is_name = False
    if not is_name:
        raise ValueError(f"{target.repo_id!r:.100} is no name of a repository. Give one such as org/name.")
    if not re.fullmatch(r"[\w./\-]{1,200}", target.revision) or ".." in target.revision:
        raise ValueError(f"--revision is {target.revision!r:.100}, but must be the name of a branch, such as {MAIN}.")
    if target.create_pr and target.revision != MAIN:
        raise ValueError(f"A pull request goes to {MAIN}: leave out --revision or --create-pr.")
    if target.create_pr and target.private:
        raise ValueError("A pull request goes to a repository that is there, so --private would have no effect.")
    if not target.message.strip():
        raise ValueError("--message is blank. Say in a few words what is pushed.")


def check_token(api: HfApi) -> str:
    """The name of whoever is logged in; raises ValueError if nobody is, or the token may only read."""
    with hub_errors("The Hub does not say whose token this is"):
        try:
            user = api.whoami()
        except LocalTokenNotFoundError as error:
            raise ValueError(f"There is no token for the Hub. {LOG_IN}") from error
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise ValueError(f"The token of {user['name']} may only read. {LOG_IN}")
    return user["name"]


def find_changes(api: HfApi, content: "Content", target: Target) -> Changes:
    """What the push would do; raises ValueError if it may not, or would replace files that it was not asked to."""
    names = sorted(content.files)
    with hub_errors(f"{target.repo_id} cannot be looked at"):
        try:
            info = api.repo_info(target.repo_id, repo_type=content.kind)
        except RepositoryNotFoundError as error:
            if error.response.status_code == 401:
                raise
            if target.create_pr:
                raise ValueError(
                    f"There is no {content.kind} {target.repo_id} to propose changes to. Leave out --create-pr."
                ) from error
            return Changes(added=names)
        is_new_branch = False
        try:
            commit = api.repo_info(target.repo_id, repo_type=content.kind, revision=target.revision).sha
        except RevisionNotFoundError:
            commit, is_new_branch = info.sha, True  # it is made from the main branch, which stays as it is
        tree = api.list_repo_tree(target.repo_id, recursive=True, revision=commit, repo_type=content.kind)
        held = {file.path: file for file in tree if isinstance(file, RepoFile)}
    if target.private and not info.private:
        raise ValueError(
            f"{target.repo_id} is there, and public: --private would have no effect. Leave it out, or give a new name."
        )
    changes = compared(content, held, commit)
    asked = target.replace or target.create_pr or is_new_branch
    if (changes.replaced or changes.removed) and not asked:
        raise ValueError(
            f"{target.repo_id} holds files that this push would replace: "
            f"{shortened([*changes.replaced, *changes.removed])}. "
            "Give --replace to replace them, --create-pr to propose it, --revision with a new branch, or another name."
        )
    return changes


def compared(content: "Content", held: Mapping[str, RepoFile], commit: str | None) -> Changes:
    """The changes against the files that the Hub lists for a commit."""
    ours = content.files
    same = [name for name in ours if name in held and is_same(ours[name], held[name])]
    others = sorted(held.keys() - ours.keys())
    folders = {name.rpartition("/")[0] for name in ours if LOADED.fullmatch(name)}
    stale = [name for name in others if LOADED.fullmatch(name) and name.rpartition("/")[0] in folders]
    removed = stale if content.kind == "model" else []
    return Changes(
        commit,
        added=sorted(ours.keys() - held.keys()),
        replaced=sorted((ours.keys() & held.keys()) - set(same)),
        removed=removed,
        same=sorted(same),
        kept=[name for name in others if name not in removed],
    )


def is_same(file: Path | bytes, there: RepoFile) -> bool:
    """Whether a file has the content that the Hub lists: by its git blob, or by that of large files, SHA-256."""
    size = len(file) if isinstance(file, bytes) else file.stat().st_size
    if size != there.size:
        return False
    if there.lfs is not None:
        return digest(file, hashlib.sha256()) == there.lfs.sha256
    return digest(file, hashlib.sha1(b"blob %d\0" % size)) == there.blob_id


def digest(file: Path | bytes, hashed: Any) -> str:
    if isinstance(file, bytes):
        hashed.update(file)
    else:
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                hashed.update(block)
    return hashed.hexdigest()


def push(api: HfApi, content: "Content", target: Target, changes: Changes) -> dict[str, Any]:
    """Makes the repository, if it is not there, and one commit, if there is something to change.

    Returns:
        `url` of the repository, `commit`, and `commit_url` and `pull_request_url`, which may be None.

    Raises:
        ValueError: if the Hub refuses, or somebody has changed it since `changes` were found.
    """
    kind = content.kind
    wanted = {*changes.added, *changes.replaced}
    operations = [CommitOperationAdd(name, content.files[name]) for name in sorted(wanted)]
    removals = [CommitOperationDelete(name) for name in changes.removed]
    after = "A commit is there whole or not at all; the same command goes on with what is uploaded already"
    url = f"{api.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{target.repo_id}"
    if not operations and not removals:
        return {"url": url, "commit_url": None, "commit": changes.commit, "pull_request_url": None}
    with hub_errors(f"{target.repo_id} was not pushed. {after}"):
        options: dict[str, Any] = {"repo_type": kind, "private": target.private or None}
        if kind == "space":
            options["space_sdk"] = "gradio"
        if changes.commit is None:
            api.create_repo(target.repo_id, exist_ok=False, **options)
        if target.revision != MAIN:
            api.create_branch(target.repo_id, branch=target.revision, repo_type=kind, exist_ok=True)
        done = api.create_commit(
            target.repo_id,
            [*operations, *removals],
            commit_message=target.message,
            repo_type=kind,
            revision=target.revision,
            create_pr=target.create_pr,
            parent_commit=changes.commit,
        )
    return {"url": url, "commit_url": done.commit_url, "commit": done.oid, "pull_request_url": done.pr_url}


@contextlib.contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Whatever the Hub or the way to it raises is a ValueError that says what failed, and what to do."""
    try:
        yield
    except Exception as error:  # of the network, too, whose errors have no common class
        if type(error) is ValueError:
            raise
        raise ValueError(f"{what}: {hub_reason(error)}") from error


def shortened(names: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{rest}"
