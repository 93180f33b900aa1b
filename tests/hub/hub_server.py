"""A stand-in for the Hub: the part of its HTTP interface that huggingface_hub uses, over local folders.

`python hub_server.py FOLDER` prints its port, then serves FOLDER/org/name as the repository org/name.
"""

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    root: Path

    def log_message(self, *arguments):
        pass

    def reply(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, value, status: int = 200, **headers: str) -> None:
        self.reply(json.dumps(value).encode(), status, Content_Type="application/json", **headers)

    def files(self, repository: str) -> dict[str, Path]:
        folder = self.root / repository
        return {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if path.startswith("/api/models/"):
            self.describe(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            self.send_file(*path.strip("/").split("/resolve/"))
        else:
            self.reply_json({"error": path}, 404)

    do_HEAD = do_GET  # noqa: N815

    def describe(self, rest: str) -> None:
        repository, what = "/".join(rest.split("/")[:2]), rest.split("/")[2:]
        if not (self.root / repository).is_dir():
            self.reply_json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif what[:1] == ["tree"]:
            self.list_tree(repository, "/".join(what[2:]))
        else:
            names = [{"rfilename": name} for name in self.files(repository)]
            self.reply_json({"id": repository, "modelId": repository, "sha": COMMIT, "siblings": names, "tags": []})

    def list_tree(self, repository: str, below: str) -> None:
        files = {name: file for name, file in self.files(repository).items() if name.startswith(below)}
        if not files:
            self.reply_json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            return
        entries = [
            {"type": "file", "path": name, "size": file.stat().st_size, "oid": self.etag(file)}
            for name, file in files.items()
        ]
        self.reply_json(entries)

    @staticmethod
    def etag(file: Path) -> str:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:40]

    def send_file(self, repository: str, rest: str) -> None:
        name = rest.partition("/")[2]
        with (self.root / "asked.txt").open("a") as log:
            log.write(f"{repository}/{name}\n")
        file = self.root / repository / name
        if not file.is_file():
            self.reply_json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            return
        self.reply(file.read_bytes(), ETag=f'"{self.etag(file)}"', X_Repo_Commit=COMMIT)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlparse(self.path).path
        if path == "/api/repos/create":
            values = json.loads(body)
            repository = f"{values.get('organization') or 'org'}/{values['name']}"
            (self.root / repository).mkdir(parents=True, exist_ok=True)
            self.reply_json({"url": f"http://{self.headers['Host']}/{repository}", "id": repository})
        elif path == "/api/validate-yaml":
            self.reply_json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.reply_json({"files": files, "commitOid": COMMIT})
        elif "/commit/" in path:
            self.commit("/".join(path.split("/")[3:5]), body)
        else:
            self.reply_json({"error": path}, 404)

    def commit(self, repository: str, body: bytes) -> None:
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                file = self.root / repository / entry["value"]["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(base64.b64decode(entry["value"]["content"]))
        url = f"http://{self.headers['Host']}/{repository}/commit/{COMMIT}"
        self.reply_json({"commitUrl": url, "commitOid": COMMIT, "success": True, "hookOutput": ""})


if __name__ == "__main__":
    Hub.root = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_address[1], flush=True)
    server.serve_forever()
