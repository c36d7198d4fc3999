"""The part of the Hugging Face hub's HTTP interface that pushing and fetching a small model needs, on 127.0.0.1."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """`files`: by repository and path. `log`: every request, as "POST /api/repos/create"."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.log: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        self.server.log.append(f"{self.command} {self.path}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization") or "user", asked["name"].split("/")[-1])))
            self.server.files.setdefault(name, {})
            return self.answer({"url": f"{self.server.url}/{name}", "name": name})
        if self.path.startswith("/api/validate-yaml"):
            return self.answer({"warnings": [], "errors": []})
        if found := re.match(r"/api/models/([^/]+/[^/]+)/preupload/", self.path):
            asked = json.loads(body)["files"]
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None} for file in asked
            ]
            return self.answer({"files": files})
        if found := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    content = base64.b64decode(item["value"]["content"])
                    self.server.files[found[1]][item["value"]["path"]] = content
            sha = self.sha(found[1])
            url = f"{self.server.url}/{found[1]}/commit/{sha}"
            return self.answer({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})
        self.answer({"error": f"no POST {self.path}"}, status=404)

    def do_GET(self) -> None:
        self.get(with_body=True)

    def do_HEAD(self) -> None:
        self.get(with_body=False)

    def get(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if found := re.match(r"/api/models/([^/]+/[^/]+)(?:/revision/.+)?$", path):
            if found[1] not in self.server.files:
                return self.answer({"error": "Repository not found"}, status=404, code="RepoNotFound")
            names = [{"rfilename": name} for name in self.server.files[found[1]]]
            facts = {"id": found[1], "sha": self.sha(found[1]), "siblings": names, "private": False, "tags": []}
            return self.answer(facts)
        if found := re.match(r"/api/models/([^/]+/[^/]+)/tree/", path):
            files = self.server.files[found[1]].items()
            return self.answer(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files
                ]
            )
        if found := re.match(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)$", path):
            content = self.server.files.get(found[1], {}).get(found[2])
            if content is None:
                return self.answer({"error": "Entry not found"}, status=404, code="EntryNotFound")
            etag = hashlib.sha256(content).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.sha(found[1])}
            return self.send(content, headers=headers, with_body=with_body)
        self.answer({"error": f"no GET {self.path}"}, status=404)

    def sha(self, repository: str) -> str:
        files = self.server.files[repository]
        return hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()

    def answer(self, value: object, *, status: int = 200, code: str = "") -> None:
        headers = {"Content-Type": "application/json"} | ({"X-Error-Code": code} if code else {})
        self.send(json.dumps(value).encode(), status=status, headers=headers)

    def send(self, body: bytes, *, status: int = 200, headers: dict[str, str], with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)
