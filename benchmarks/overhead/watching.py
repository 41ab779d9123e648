"""Whoever watches a service: a scraper of its metrics, an open console, a folder of records, a collector of spans."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

SCRAPE_S = 1.0
TIMEOUT_S = 30.0


@contextlib.contextmanager
def watched_by(url: str | None) -> Iterator[None]:
    """While the context lasts the metrics of the service are scraped every second and its console is open.

    Raises:
        RuntimeError: at the end; one of them was not to be had.
    """
    if url is None:
        yield
        return
    over = threading.Event()
    failed: list[httpx.HTTPError] = []

    def guarded(watch: Callable[[], None]) -> None:
        try:
            watch()
        except httpx.HTTPError as error:
            failed.append(error)

    def scrape() -> None:
        while not over.is_set():
            httpx.get(f"{url}/metrics", timeout=TIMEOUT_S).raise_for_status()
            over.wait(SCRAPE_S)

    def look() -> None:
        with httpx.stream("GET", f"{url}/console/events", timeout=TIMEOUT_S) as events:
            events.raise_for_status()
            for _ in events.iter_lines():
                if over.is_set():
                    return

    watchers = [threading.Thread(target=guarded, args=(watch,), daemon=True) for watch in (scrape, look)]
    for watcher in watchers:
        watcher.start()
    try:
        yield
    finally:
        over.set()
        for watcher in watchers:
            watcher.join(TIMEOUT_S)
    if failed:
        raise RuntimeError(f"the service could not be watched: {failed[0]}")


@contextlib.contextmanager
def records_and_spans() -> Iterator[tuple[Path, str]]:
    """A folder, and the address of a collector that takes every span and keeps none."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Taken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder), f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Taken(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Nothing: standard error is the benchmark's."""
