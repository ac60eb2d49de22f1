"""A hub on this machine that talks as the real one does, on real sockets: an API host and a storage host of another port.

Spoken: model info, tree, resolve (ETag, X-Repo-Commit, X-Linked-Etag and -Size, redirect of large files to the storage
host, Range), repos/create, branch, validate-yaml, preupload, LFS batch, upload and verify, commit (ndjson, parentCommit).
Refused as there: 401 (unknown token, or private and no token), 403 (gated, no right to write), 404 with X-Error-Code,
409, 412, 429 with Retry-After. Told to misbehave through `cut`, `slow`, `stall`, `refuse`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

LARGE_BYTES = 4096
"""Files from this size on are kept as LFS."""


@dataclass
class Repo:
    """commits: commit -> path -> content; branches: name -> commit."""

    private: bool = False
    gated: bool = False
    owner: str = "acme"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]]


@dataclass(frozen=True)
class Seen:
    """A request. host: "hub" or "storage"."""

    host: str
    method: str
    path: str
    range: str | None
    authorization: str | None


class HubServer:
    """Serves `repos`; `tokens` maps a token to (user, may write)."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens: dict[str, tuple[str, bool]] = {"hf_writer": ("acme", True), "hf_reader": ("bob", False)}
        self.large: dict[str, bytes] = {}  # content of LFS objects by SHA-256
        self.verified: set[str] = set()
        self.seen: list[Seen] = []
        self.cuts: dict[str, list[int]] = {}  # path pattern -> how many bytes of each next body are sent
        self.refusals: list[
            tuple[str, str, int, dict[str, str]]
        ] = []  # method and path patterns, status, headers; once
        self.slow_bytes_per_s: int | None = None
        self.stalled: str | None = None  # method and path pattern that is not answered until `resume`
        self.resume = threading.Event()
        self.wrong_byte = False  # the storage host changes a byte
        self.ignore_range = False
        self.down = False
        self.xet = False  # large files say that they are in xet storage too; they can be had over HTTP all the same
        self.portal = False  # every page is the login page of a hotel
        self.bare_401 = False  # as the hub answers over https, where huggingface_hub knows what it means
        self.large_from_bytes = LARGE_BYTES
        self.content_type = "application/octet-stream"
        self.lock = threading.Lock()
        self.endpoint = self.storage = ""

    def add(self, name: str, files: dict[str, bytes], **options: Any) -> Repo:
        repo = self.repos[name] = Repo(owner=name.partition("/")[0], **options)
        self.commit(repo, files, "main", "first")
        return repo

    def commit(self, repo: Repo, files: dict[str, bytes], branch: str, message: str) -> str:
        commit = hashlib.sha1(f"{len(repo.commits)}{message}{sorted(files)}{time.time()}".encode()).hexdigest()
        repo.commits[commit] = dict(files)
        repo.branches[branch] = commit
        repo.messages.append(message)
        return commit

    def gets(self, host: str, path: str = "") -> list[Seen]:
        return [one for one in self.seen if one.host == host and one.method == "GET" and path in one.path]

    def posts(self, path: str) -> list[Seen]:
        return [one for one in self.seen if one.method == "POST" and path in one.path]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    host: str

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    do_GET = do_POST = do_PUT = do_HEAD

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        header = self.headers
        self.hub.seen.append(Seen(self.host, self.command, path, header.get("Range"), header.get("Authorization")))
        length = int(header.get("Content-Length") or 0)
        if header.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        else:
            self.body = self.rfile.read(length)
        if self.hub.down:
            self._send(503, b"down")
            return
        if self.hub.portal:
            self._send(200, b"<html>Welcome</html>", {"Content-Type": "text/html"})
            return
        if self.hub.stalled and re.search(self.hub.stalled, f"{self.command} {path}"):
            self.hub.resume.wait(30)
            self.close_connection = True
            return
        with self.hub.lock:
            for index, (method, pattern, status, headers) in enumerate(self.hub.refusals):
                if method == self.command and re.search(pattern, path):
                    del self.hub.refusals[index]
                    self._send(status, b"", headers)
                    return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            (self._on_hub if self.host == "hub" else self._on_storage)(path)

    def _chunks(self) -> bytes:
        out = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            out += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return out

    def _on_hub(self, path: str) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        user, may_write = self.hub.tokens.get(token, (None, False))
        if token and user is None:
            self._error(401, None, "Invalid credentials in Authorization header")
            return
        routes = (
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", self._validate),
            (r"/verify/(\w+)", self._verify),
        )
        for pattern, action in routes:
            if found := re.fullmatch(pattern, path):
                action(user, may_write, *found.groups())
                return
        found = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/]+?)(?:\.git)?(/.*)?", path)
        name, rest = (found[1], found[2] or "") if found else ("", "")
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and user != repo.owner):
            bare = user is None and self.hub.bare_401
            self._error(404 if user else 401, None if bare else "RepoNotFound", "Repository not found")
            return
        if repo.gated and user != repo.owner and "/resolve/" in path:
            self._error(403, "GatedRepo", "Access to this repository is restricted")
            return
        if self.command == "POST" and not (may_write and user == repo.owner):
            self._error(403, None, "You don't have the rights to do this")
            return
        if path.startswith("/api/"):
            self._repo_api(repo, name, rest)
        elif rest.startswith("/resolve/"):
            self._resolve(repo, rest.removeprefix("/resolve/"))
        elif rest == "/info/lfs/objects/batch":
            self._batch()
        else:
            self._error(404, None, "no such page")

    def _at(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = repo.branches.get(revision, revision)
        return (commit, repo.commits[commit]) if commit in repo.commits else None

    def _repo_api(self, repo: Repo, name: str, rest: str) -> None:
        kind, _, argument = rest.lstrip("/").partition("/")
        if kind == "branch":
            if argument in repo.branches:
                self._error(409, None, "Reference already exists")
                return
            repo.branches[argument] = repo.branches["main"]
            self._json(200, {})
            return
        at = self._at(repo, argument or "main")
        if at is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {argument}")
        elif kind in ("", "revision"):
            siblings = [{"rfilename": file} for file in at[1]]
            self._json(200, {"id": name, "sha": at[0], "private": repo.private, "siblings": siblings, "tags": []})
        elif kind == "tree":
            tree = [{"type": "file", "path": n, "size": len(d), "oid": git_sha1(d)} for n, d in at[1].items()]
            self._json(200, tree)
        elif kind == "preupload":
            files = json.loads(self.body)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["size"] >= self.hub.large_from_bytes else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            self._json(200, {"files": modes})
        elif kind == "commit":
            self._commit(repo, name, argument, *at)
        else:
            self._error(404, None, "no such page")

    def _commit(self, repo: Repo, name: str, branch: str, parent: str, files: dict[str, bytes]) -> None:
        files, message = dict(files), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, parent):
                    self._error(412, None, "A commit has happened since. Please refresh and try again.")
                    return
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.verified:
                    self._error(400, None, "LFS pointer pointed to a file that does not exist")
                    return
                files[value["path"]] = self.hub.large[value["oid"]]
        commit = self.hub.commit(repo, files, branch, message)
        self._json(
            200, {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}"}
        )

    def _create(self, user: str | None, may_write: bool) -> None:
        wanted = json.loads(self.body)
        owner, name = wanted.get("organization") or user, wanted["name"]
        if not may_write or owner != user:
            self._error(403 if user else 401, None, "You don't have the rights to create a model under this namespace")
        elif f"{owner}/{name}" in self.hub.repos:
            self._error(409, None, "You already created this model repo")
        else:
            private = wanted.get("visibility") == "private" or wanted.get("private") is True
            self.hub.add(f"{owner}/{name}", {".gitattributes": b""}, private=private)
            self._json(200, {"url": f"{self.hub.endpoint}/{owner}/{name}", "name": f"{owner}/{name}"})

    def _validate(self, user: str | None, may_write: bool) -> None:
        import yaml

        content = json.loads(self.body)["content"]
        block = re.match(r"\s*---\n(.*?)\n---\n", content, re.DOTALL)
        warnings = [] if block else [{"message": "empty or missing yaml metadata in repo card"}]
        try:
            data = yaml.safe_load(block[1]) if block else {}
            bad = [key for key in ("library_name", "license") if key in data and not isinstance(data[key], str)]
        except yaml.YAMLError as error:
            bad = [str(error)]
        self._json(400 if bad else 200, {"errors": [{"message": key} for key in bad], "warnings": warnings})

    def _batch(self) -> None:
        out = []
        for item in json.loads(self.body)["objects"]:
            oid = item["oid"]
            actions = {
                "upload": {"href": f"{self.hub.storage}/upload/{oid}?signature=secret"},
                "verify": {"href": f"{self.hub.endpoint}/verify/{oid}"},
            }
            out.append({**item, **({} if oid in self.hub.verified else {"actions": actions})})
        self._json(200, {"transfer": "basic", "objects": out})

    def _verify(self, user: str | None, may_write: bool, oid: str) -> None:
        wanted, kept = json.loads(self.body), self.hub.large.get(oid)
        if kept is None or len(kept) != wanted["size"] or hashlib.sha256(kept).hexdigest() != oid:
            self._error(400, None, "the object is not what was announced")
            return
        self.hub.verified.add(oid)
        self._json(200, {})

    def _resolve(self, repo: Repo, rest: str) -> None:
        names = sorted([*repo.branches, *repo.commits], key=len, reverse=True)
        revision = next((name for name in names if rest.startswith(f"{name}/")), None)
        if revision is None:
            self._error(404, "RevisionNotFound", "Invalid rev id")
            return
        commit, files = self._at(repo, revision) or ("", {})
        file = rest.removeprefix(f"{revision}/")
        common = {"X-Repo-Commit": commit}
        if file not in files:
            self._send(404, b"", {**common, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        data = files[file]
        if len(data) < self.hub.large_from_bytes:
            self._body(data, {**common, "ETag": f'"{git_sha1(data)}"'})
            return
        oid = hashlib.sha256(data).hexdigest()
        self.hub.large[oid] = data
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data)), "ETag": f'"{git_sha1(data)}"'}
        if self.hub.xet:
            linked |= {"X-Xet-Hash": oid, "X-Xet-Refresh-Route": f"{self.hub.endpoint}/api/xet-read-token"}
        self._send(302, b"", {**common, **linked, "Location": f"{self.hub.storage}/get/{oid}?signature=secret"})

    def _on_storage(self, path: str) -> None:
        action, _, oid = path.lstrip("/").partition("/")
        if action == "upload" and self.command == "PUT":
            self.hub.large[oid] = self.body
            self._send(200, b"")
        elif action == "get" and oid in self.hub.large:
            data = self.hub.large[oid]
            if self.hub.wrong_byte:
                data = data[:-1] + bytes([data[-1] ^ 1])
            self._body(data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'})
        else:
            self._send(403, b"<Error>AccessDenied</Error>")

    def _body(self, data: bytes, headers: dict[str, str]) -> None:
        """A file, or the part of it that Range asks for."""
        headers = {**headers, "Accept-Ranges": "bytes", "Content-Type": self.hub.content_type}
        status, wanted = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        changed = self.headers.get("If-Range") not in (None, headers["ETag"])
        if wanted and not changed and not self.hub.ignore_range:
            start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            if start >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            status, data = 206, data[start : end + 1]
        self._send(status, data, headers)

    def _json(self, status: int, document: Any) -> None:
        self._send(status, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message, "Content-Type": "application/json"}
        self._send(status, json.dumps({"error": message}).encode(), headers | ({"X-Error-Code": code} if code else {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        path = self.path.partition("?")[0]
        for pattern, cuts in self.hub.cuts.items():
            if cuts and re.search(pattern, path) and status < 300:
                body = body[: cuts.pop(0)]
                self.close_connection = True
        speed = self.hub.slow_bytes_per_s if self.host == "storage" else None
        step = max(1, speed // 50) if speed else max(1, len(body))
        for at in range(0, len(body), step):
            self.wfile.write(body[at : at + step])
            self.wfile.flush()
            if speed:
                time.sleep(0.02)


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def serve() -> Iterator[HubServer]:
    """A running hub; its storage host has another name as well as another port."""
    hub = HubServer()
    running = []
    for host in ("hub", "storage"):
        handler = type("Bound", (_Handler,), {"hub": hub, "host": host})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  a client that was killed is no news
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        running.append((server, thread))
    hub.endpoint = f"http://127.0.0.1:{running[0][0].server_address[1]}"
    hub.storage = f"http://localhost:{running[1][0].server_address[1]}"
    try:
        yield hub
    finally:
        hub.resume.set()
        for server, thread in running:
            server.shutdown()
            thread.join()
            server.server_close()
