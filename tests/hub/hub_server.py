"""A stand-in for the Hub: the part of its HTTP interface that huggingface_hub uses, over local folders.

`python hub_server.py FOLDER` prints its port, then serves FOLDER/org/name as the repository org/name, data sets and
Spaces below FOLDER/datasets and FOLDER/spaces. FOLDER/hub.json says what goes wrong (`hub_process.arrange`).
"""

import base64
import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
import uuid
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "a" * 40  # of what lay in the folder before the first commit
KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
READ_ONLY, EXPIRED, GRANTED = "hf_read", "hf_expired", "hf_granted"  # tokens; any other one may write
NAMESPACES = ("user", "org")  # of whoever has a token
LARGE = (".safetensors", ".mp4", ".npz", ".parquet")  # stored as LFS objects, if the arrangement says "lfs"
WRITES = re.compile(r"/(preupload|commit|branch|info/lfs)/|/repos/create$|^/lfs/")


class Hub(BaseHTTPRequestHandler):
    root: Path
    faults_done: ClassVar[Counter] = Counter()
    lock: ClassVar[threading.Lock] = threading.Lock()  # held by what another request may not see, or end, half done

    def log_message(self, *arguments):
        pass

    # --- Answers

    def reply(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: self.left_to_send])
            self.wfile.flush()
        if self.left_to_send is not None and len(body) > self.left_to_send and self.command != "HEAD":
            self.stop_short()

    def reply_json(self, value, status: int = 200, **headers: str) -> None:
        self.reply(json.dumps(value).encode(), status, Content_Type="application/json", **headers)

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X_Error_Code": code} if code else {}
        self.reply_json({"error": message or code}, status, **headers)

    def stop_short(self) -> None:
        """The connection ends here; of a fault that says so, the whole server."""
        if self.dies:
            with self.lock:
                os._exit(1)
        self.close_connection = True
        self.connection.close()

    # --- What goes wrong

    def arrangement(self) -> dict:
        file = self.root / "hub.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def has_fault(self, path: str) -> bool:
        """Whether a fault of the arrangement has answered; one that cuts answers later, when bytes are sent."""
        self.left_to_send, self.dies = None, False
        for fault in self.arrangement().get("faults", []):
            key = json.dumps(fault)
            if fault["path"] not in path or fault.get("method", self.command) != self.command:
                continue
            with self.lock:
                self.faults_done[key] += 1
                if self.faults_done[key] > fault.get("times", 10**6):
                    continue
            while fault.get("after", 0) > len(list((self.root / ".lfs").glob("*"))):
                time.sleep(0.01)
            if "status" in fault:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.refuse(fault["status"], message="arranged")
                return True
            self.left_to_send, self.dies = fault["cut"], fault.get("dies", False)
        return False

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def may_not(self, path: str) -> bool:
        """Whether the token does not suffice, which is then said."""
        if self.token == EXPIRED or (self.token is None and (WRITES.search(path) or "whoami" in path)):
            self.refuse(401, message="Invalid username or password.")
        elif self.token == READ_ONLY and WRITES.search(path):
            self.refuse(403, message="You have read access but not the required permissions for this operation")
        else:
            return False
        return True

    # --- Repositories: the tree of each commit lies below .commits, that of the branch main in the folder itself

    def files(self, tree: Path) -> dict[str, Path]:
        return {str(file.relative_to(tree)): file for file in sorted(tree.rglob("*")) if file.is_file()}

    def commits(self, repository: str) -> Path:
        return self.root / ".commits" / repository

    def resolve(self, repository: str, revision: str) -> str | None:
        """The commit that a branch, a pull request or a commit names."""
        file = self.commits(repository) / "refs.json"
        refs = {"main": COMMIT, **(json.loads(file.read_text()) if file.is_file() else {})}
        commit = refs.get(revision, revision)
        return commit if commit == refs["main"] or (self.commits(repository) / commit).is_dir() else None

    def tree(self, repository: str, commit: str) -> Path:
        stored = self.commits(repository) / commit
        return stored if stored.is_dir() else self.root / repository

    def oids(self, name: str, file: Path) -> dict:
        """As the Hub lists a file: the oid of its git blob, and of its LFS object, if it is one."""
        content = file.read_bytes()
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": name, "size": len(content), "oid": oid}
        if self.arrangement().get("lfs") and name.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
        return entry

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if self.has_fault(path) or self.may_not(path):
            return
        api = re.match(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)/?(.*)", path)
        file = re.match(r"/(datasets/|spaces/|)([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path)
        if path == "/api/whoami-v2":
            role = "read" if self.token == READ_ONLY else "write"
            orgs = [{"name": name, "type": "org"} for name in NAMESPACES[1:]]
            self.reply_json({"name": "user", "orgs": orgs, "auth": {"accessToken": {"role": role}}, "type": "user"})
        elif api:
            self.describe(KINDS[api[1]] + api[2], api[3])
        elif file:
            self.send_file(file[1] + file[2], file[3], file[4])
        else:
            self.reply_json({"error": path}, 404)

    do_HEAD = do_GET  # noqa: N815

    def describe(self, repository: str, what: str) -> None:
        is_private = repository in self.arrangement().get("private", [])
        if not (self.root / repository).is_dir() or (is_private and self.token is None):
            self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
            return
        part = re.match(r"(tree|revision)/(refs/pr/\d+|[^/]+)/?(.*)", what)
        commit = self.resolve(repository, part[2] if part else "main")
        if commit is None:
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
        elif part and part[1] == "tree":
            self.list_tree(repository, commit, part[3])
        else:
            names = [{"rfilename": name} for name in self.files(self.tree(repository, commit))]
            values = {"id": repository, "modelId": repository, "sha": commit, "siblings": names, "tags": []}
            self.reply_json({**values, "private": is_private, "gated": self.is_gated(repository)})

    def is_gated(self, repository: str) -> bool:
        return repository in self.arrangement().get("gated", [])

    def list_tree(self, repository: str, commit: str, below: str) -> None:
        files = {
            name: file for name, file in self.files(self.tree(repository, commit)).items() if name.startswith(below)
        }
        if not files and below:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        self.reply_json([self.oids(name, file) for name, file in files.items()])

    def send_file(self, repository: str, revision: str, name: str) -> None:
        with (self.root / "asked.txt").open("a") as log:
            log.write(f"{repository}/{name}\n")
        if self.is_gated(repository) and self.token != GRANTED:
            self.refuse(403 if self.token else 401, "GatedRepo", "Access to this repository is restricted")
            return
        commit = self.resolve(repository, revision)
        file = self.tree(repository, commit) / name if commit else None
        if file is None or not file.is_file():
            code = "EntryNotFound" if commit else "RevisionNotFound"
            self.reply_json({"error": "Entry not found"}, 404, X_Error_Code=code, X_Repo_Commit=commit or COMMIT)
            return
        content, entry = file.read_bytes(), self.oids(name, file)
        headers = {"ETag": f'"{entry.get("lfs", entry)["oid"]}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if part:
            with (self.root / "resumed.txt").open("a") as log:
                log.write(f"{repository}/{name} {part[1]}\n")
            headers["Content_Range"] = f"bytes {part[1]}-{len(content) - 1}/{len(content)}"
            content = content[int(part[1]) :]
        self.reply(content, 206 if part else 200, **headers)

    # --- What is written

    def do_POST(self) -> None:
        path = unquote(urlparse(self.path).path)
        if self.has_fault(path):
            return
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length if self.left_to_send is None else min(length, self.left_to_send))
        if self.left_to_send is not None:
            self.stop_short()
            return
        if self.may_not(path):
            return
        target = re.match(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path)
        objects = re.match(r"/(datasets/|spaces/|)([^/]+/[^/]+)\.git/info/lfs/objects/batch", path)
        if path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.reply_json({"errors": [], "warnings": []})
        elif target and target[3] == "preupload":
            self.preupload(KINDS[target[1]] + target[2], target[4], json.loads(body))
        elif target and target[3] == "branch":
            self.branch(KINDS[target[1]] + target[2], target[4])
        elif target:
            self.commit(KINDS[target[1]] + target[2], target[4], body)
        elif objects:
            self.offer(json.loads(body))
        else:
            self.reply_json({"error": path}, 404)

    def create(self, values: dict) -> None:
        namespace = values.get("organization") or "user"
        repository = f"{KINDS[values.get('type', 'model') + 's']}{namespace}/{values['name']}"
        url = f"http://{self.headers['Host']}/{repository}"
        if namespace not in NAMESPACES:
            self.refuse(403, message=f'You don\'t have the rights to create a model under the namespace "{namespace}"')
        elif (self.root / repository).is_dir():
            self.reply_json({"url": url, "error": "You already created this model repo"}, 409)
        else:
            (self.root / repository).mkdir(parents=True)
            with (self.root / "created.jsonl").open("a") as log:
                log.write(json.dumps({**values, "repository": repository}) + "\n")
            self.reply_json({"url": url, "id": repository})

    def branch(self, repository: str, name: str) -> None:
        """A branch that begins where main stands."""
        if self.resolve(repository, name) is not None:
            self.refuse(409, message="Reference already exists")
            return
        self.store(repository, str(self.resolve(repository, "main")))
        self.refer(repository, name, str(self.resolve(repository, "main")))
        self.reply_json({})

    def store(self, repository: str, commit: str) -> None:
        """Keeps the tree of a commit, should it not be that of main any more."""
        tree = self.commits(repository) / commit
        if not tree.is_dir():
            shutil.copytree(self.root / repository, tree)

    def refer(self, repository: str, name: str, commit: str) -> None:
        file = self.commits(repository) / "refs.json"
        refs = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**refs, name: commit}))

    def preupload(self, repository: str, revision: str, values: dict) -> None:
        commit = self.resolve(repository, revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        held = self.files(self.tree(repository, commit))
        files = []
        for name in (file["path"] for file in values["files"]):
            large = self.arrangement().get("lfs") and name.endswith(LARGE)
            entry = self.oids(name, held[name]) if name in held else {}
            oid = entry.get("lfs", entry).get("oid")
            mode = "lfs" if large else "regular"
            files.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.reply_json({"files": files, "commitOid": commit})

    def offer(self, values: dict) -> None:
        """Where each LFS object is to be put, if it is not there yet."""
        objects = []
        for entry in values["objects"]:
            offered = {"oid": entry["oid"], "size": entry["size"]}
            if not (self.root / ".lfs" / entry["oid"]).is_file():
                offered["actions"] = {"upload": {"href": f"http://{self.headers['Host']}/lfs/{entry['oid']}"}}
            objects.append(offered)
        self.reply_json({"transfer": "basic", "objects": objects})

    def do_PUT(self) -> None:
        if self.has_fault(self.path):
            return
        length = int(self.headers["Content-Length"])
        if self.left_to_send is not None and self.left_to_send < length:
            self.rfile.read(self.left_to_send)
            self.stop_short()
            return
        body, oid = self.rfile.read(length), self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        for folder in (".lfs", ".arriving"):
            (self.root / folder).mkdir(exist_ok=True)
        arriving = self.root / ".arriving" / f"{oid}-{uuid.uuid4().hex}"
        arriving.write_bytes(body)  # there whole or not at all, as another request may end the server meanwhile
        with self.lock, (self.root / "put.txt").open("a") as log:
            arriving.replace(self.root / ".lfs" / oid)
            log.write(f"{oid}\n")
            log.flush()
        self.reply()

    def commit(self, repository: str, revision: str, body: bytes) -> None:
        entries = [json.loads(line) for line in body.decode().splitlines()]
        parent = self.resolve(repository, revision)
        if parent is None:
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        if entries[0]["value"].get("parentCommit", parent) != parent:
            self.refuse(412, message="A commit has happened since. Please refresh and try again.")
            return
        commits = self.commits(repository)
        self.store(repository, parent)
        place = len(list(commits.iterdir()))  # in the order of commits, so that equal ones differ
        commit = hashlib.sha1(f"{parent} {place}".encode() + body).hexdigest()
        shutil.copytree(commits / parent, commits / commit)
        for entry in entries[1:]:
            self.change(commits / commit, entry["key"], entry["value"])
        is_pr = parse_qs(urlparse(self.path).query).get("create_pr") == ["1"]
        number = 1 if is_pr else 0
        while self.resolve(repository, f"refs/pr/{number}"):
            number += 1
        self.refer(repository, f"refs/pr/{number}" if is_pr else revision, commit)
        if revision == "main" and not is_pr:
            shutil.rmtree(self.root / repository)
            shutil.copytree(commits / commit, self.root / repository)
        with (self.root / "commits.jsonl").open("a") as log:
            log.write(json.dumps({**entries[0]["value"], "repository": repository, "commit": commit}) + "\n")
        url = f"http://{self.headers['Host']}/{repository}"
        answer = {"commitUrl": f"{url}/commit/{commit}", "commitOid": commit, "success": True, "hookOutput": ""}
        self.reply_json({**answer, **({"pullRequestUrl": f"{url}/discussions/{number}"} if is_pr else {})})

    def change(self, tree: Path, key: str, value: dict) -> None:
        file = tree / value["path"]
        if key == "deletedFile":
            file.unlink()
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        if key == "file":
            file.write_bytes(base64.b64decode(value["content"]))
        else:
            shutil.copyfile(self.root / ".lfs" / value["oid"], file)


if __name__ == "__main__":
    Hub.root = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_address[1], flush=True)
    server.serve_forever()
