"""A real HTTP server on loopback that can misbehave: cuts connections, ignores or serves Range, lies, fails."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What is served and how; `asked` lists the Range header of every request, '' where there was none."""

    content: dict[str, bytes]
    cut_after: list[int] = field(default_factory=list)
    """of the first answers: bytes after which the connection is closed"""
    fail_first: list[int] = field(default_factory=list)
    """status codes of the first answers"""
    ranges: bool = True
    etag: str = '"one"'
    says_length: bool = True
    chunked: bool = False
    asked: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(files: Files) -> Iterator[Files]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if files.chunked else "HTTP/1.0"

        def do_GET(self) -> None:
            files.asked.append(self.headers.get("Range", ""))
            if files.fail_first:
                self.send_error(files.fail_first.pop(0))
                return
            body = files.content.get(self.path.split("?")[0])
            if body is None:
                self.send_error(404)
                return
            start = 0
            wanted = self.headers.get("Range", "")
            if wanted and files.ranges and self.headers.get("If-Range", files.etag) == files.etag:
                start = int(wanted.removeprefix("bytes=").split("-")[0])
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if files.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif files.says_length:
                self.send_header("Content-Length", str(len(body) - start))
            if files.etag:
                self.send_header("ETag", files.etag)
            self.end_headers()
            cut = bool(files.cut_after)
            end = start + files.cut_after.pop(0) if cut else len(body)
            if not files.chunked:
                self.wfile.write(body[start:end])
                return
            for at in range(start, end, 100_000):
                piece = body[at : min(at + 100_000, end)]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"" if cut else b"0\r\n\r\n")
            self.close_connection = True

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
