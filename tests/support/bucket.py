"""A bucket "gs://..." kept in a folder, for programs that know no difference, and a program that runs others with it.

    python bucket.py FOLDER MODULE [ARGUMENTS]

etils reaches it through fsspec, TensorStore (Orbax's arrays) by the protocol of Cloud Storage from a server in this
process. It has objects and no folders: nothing can be appended to, and nothing renamed.
"""

import http.server
import io
import json
import os
import pathlib
import re
import runpy
import sys
import tempfile
import threading
import types
import urllib.parse

import fsspec

FOLDER = ""


def file_of(name):
    return pathlib.Path(FOLDER) / urllib.parse.quote(name, safe="")


def names(prefix=""):
    found = (urllib.parse.unquote(p.name) for p in pathlib.Path(FOLDER).iterdir() if not p.name.startswith("."))
    return sorted(n for n in found if n.startswith(prefix))


def put(name, data):
    handle, temporary = tempfile.mkstemp(dir=FOLDER, prefix=".")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(temporary, file_of(name))


class _Writing(io.BytesIO):
    def __init__(self, name):
        super().__init__()
        self._name = name

    def close(self):
        if not self.closed:
            put(self._name, self.getvalue())
        super().close()


class FileSystem(fsspec.AbstractFileSystem):
    """What etils needs of one; names are "bucket/path"."""

    protocol = ("gs", "gcs")
    cachable = False

    def __init__(self, **_):
        super().__init__()

    @classmethod
    def _strip_protocol(cls, path):
        return re.sub(r"^(gs|gcs)://", "", str(path)).rstrip("/")

    def info(self, path, **_):
        path = self._strip_protocol(path)
        if file_of(path).is_file():
            return {"name": path, "size": file_of(path).stat().st_size, "type": "file"}
        if "/" not in path or names(path + "/"):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path, detail=True, **_):
        path = self._strip_protocol(path)
        inside = sorted({path + "/" + n[len(path) + 1 :].split("/")[0] for n in names(path + "/") if n != path + "/"})
        if not inside and not file_of(path).is_file() and "/" in path and not names(path + "/"):
            raise FileNotFoundError(path)
        return [self.info(n) for n in inside] if detail else inside

    def _open(self, path, mode="rb", **_):
        path = self._strip_protocol(path)
        if "a" in mode or "+" in mode:
            raise ValueError("nothing can be appended to an object")
        if "w" in mode:
            return _Writing(path)
        if not file_of(path).is_file():
            raise FileNotFoundError(path)
        return io.BytesIO(file_of(path).read_bytes())

    def mkdir(self, path, create_parents=True, **_):
        pass

    def makedirs(self, path, exist_ok=False):
        put(self._strip_protocol(path) + "/", b"")  # as gcsfs and the console mark an empty folder

    def rm_file(self, path):
        file_of(self._strip_protocol(path)).unlink()

    def rm(self, path, recursive=False, **_):
        path = self._strip_protocol(path)
        for name in [n for n in names(path) if n == path or n.startswith(path + "/")]:
            file_of(name).unlink(missing_ok=True)

    def cp_file(self, a, b, **_):
        put(self._strip_protocol(b), file_of(self._strip_protocol(a)).read_bytes())


class Server(http.server.BaseHTTPRequestHandler):
    """The part of Cloud Storage's JSON API that TensorStore speaks."""

    protocol_version = "HTTP/1.1"

    def _answer(self, status, data=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _parts(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        bucket, name = re.fullmatch(r"(?:/upload)?/storage/v1/b/([^/]+)/o/?(.*)", url.path).groups()
        return bucket, urllib.parse.unquote(name), query

    @staticmethod
    def _generation(path):
        return str(path.stat().st_mtime_ns) if path.is_file() else "0"

    def _resource(self, bucket, full):
        path = file_of(full)
        return {"name": full[len(bucket) + 1 :], "bucket": bucket, "generation": self._generation(path),
                "size": str(path.stat().st_size)}  # fmt: skip

    def do_GET(self):
        bucket, name, query = self._parts()
        if not name:
            found = [n for n in names(f"{bucket}/{query.get('prefix', '')}")]
            start, end = query.get("startOffset", ""), query.get("endOffset", "")
            found = [n for n in found if n[len(bucket) + 1 :] >= start and (not end or n[len(bucket) + 1 :] < end)]
            return self._answer(200, json.dumps({"items": [self._resource(bucket, n) for n in found]}).encode())
        path = file_of(f"{bucket}/{name}")
        if not path.is_file():
            return self._answer(404)
        generation = self._generation(path)
        if query.get("ifGenerationNotMatch") == generation:
            return self._answer(304)
        if query.get("ifGenerationMatch", generation) != generation:
            return self._answer(412)
        data, asked = path.read_bytes(), re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self._answer(200, data, x_goog_generation=generation)
        if asked[1]:
            first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        else:
            first, last = max(len(data) - int(asked[2]), 0), len(data) - 1
        if first > last:
            return self._answer(416)
        place = f"bytes {first}-{last}/{len(data)}"
        return self._answer(206, data[first : last + 1], x_goog_generation=generation, Content_Range=place)

    def do_POST(self):
        bucket, _, query = self._parts()
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        full = f"{bucket}/{query['name']}"
        expected = query.get("ifGenerationMatch")
        if expected is not None and expected != self._generation(file_of(full)):
            return self._answer(412)
        put(full, data)
        return self._answer(200, json.dumps(self._resource(bucket, full)).encode())

    def do_DELETE(self):
        bucket, name, _ = self._parts()
        path = file_of(f"{bucket}/{name}")
        if not path.is_file():
            return self._answer(404)
        path.unlink()
        return self._answer(204)

    def log_message(self, *_):
        pass


def start(folder):
    """Makes gs:// this folder's, for this process."""
    global FOLDER
    FOLDER = str(folder)
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, FileSystem, clobber=True)
    storage = types.ModuleType("google.cloud.storage")  # Orbax asks it only whether a bucket has real folders
    plain = types.SimpleNamespace(hierarchical_namespace_enabled=False)
    storage.Client = lambda: types.SimpleNamespace(get_bucket=lambda name: plain)
    cloud = sys.modules.setdefault("google.cloud", types.ModuleType("google.cloud"))
    sys.modules["google.cloud.storage"] = cloud.storage = storage
    server = http.server.ThreadingHTTPServer(("localhost", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = f"http://localhost:{server.server_port}"
    os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "nothing"


if __name__ == "__main__":
    start(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
