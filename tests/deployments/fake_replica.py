"""An engine replica that fails on demand: its own HTTP port, announced to the running router as a real one is."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from apportion.deployments.wire.settlement import Settled, settled_headers
from apportion.router.batch.messages import ROUTER, EngineReplica


class FailingReplica:
    """Answers 500 while `fails`, else a short completion; counts what it was asked.

    It offers more slots than any real one, so that the router prefers it.
    """

    def __init__(self, model: str) -> None:
        self.fails = True
        self.asked = 0
        self._stop = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                outer.asked += 1
                answer = {"error": {"message": "out of memory"}} if outer.fails else completion(model)
                body = json.dumps(answer).encode()
                self.send_response(500 if outer.fails else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                for name, value in settled_headers(Settled(1e-6, input_tokens=5, output_tokens=1)).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.replica = EngineReplica("failing", model, f"http://127.0.0.1:{self._server.server_port}", slots=1000)

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def announce(self, application: str) -> None:
        """Heartbeats until `close`, then leaves."""
        asyncio.run(self._announce(application))

    async def _announce(self, application: str) -> None:
        from ray import serve
        from ray.serve.context import _get_global_client as get_global_client

        router = serve.get_deployment_handle(ROUTER, app_name=application)
        while not self._stop.is_set():
            await router.announce.remote(self.replica)
            await asyncio.sleep(0.5)
        gone = EngineReplica(self.replica.id, self.replica.model, self.replica.url, self.replica.slots, draining=True)
        await router.announce.remote(gone)
        # Serve's own shutdown cannot end handles of this process while their router shares its event loop.
        await get_global_client().shutdown_cached_handles_async()

    def close(self) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()


def completion(model: str) -> dict[str, object]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "5"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    return {
        "id": "fake",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


@contextmanager
def failing_replica(model: str, application: str) -> Iterator[FailingReplica]:
    replica = FailingReplica(model)
    threads = [
        threading.Thread(target=replica.serve),
        threading.Thread(target=replica.announce, args=(application,)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield replica
    finally:
        replica.close()
        for thread in threads:
            thread.join()
