"""Files and batches of a running service, as the command line asks for them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from apportion.router.errors import ApportionError, InvalidRequestError, UnavailableError

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
TIMEOUT_S = 60.0  # of a step of a call
PATIENCE_S = 120.0  # with a service that does not answer, while a batch is waited for
FIRST_LOOK_S, LAST_LOOK_S = 0.5, 5.0  # between two looks at a batch
READ_BYTES = 1 << 18


class BulkClient:
    """Asks an endpoint.

    Args:
        url: up to /v1.
        key: API key; None: the service asks for none.
        sleep: until the next look at a batch.
    """

    def __init__(self, url: str, key: str | None, sleep: Callable[[float], None] = time.sleep) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidRequestError(f"--url {url!r}: give one that begins with http:// or https://")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=url.rstrip("/") + "/", headers=headers, timeout=TIMEOUT_S)
        self._sleep = sleep

    def close(self) -> None:
        self._client.close()

    def upload(self, file: Path) -> str:
        """Sends a file piece by piece; returns its id."""
        with file.open("rb") as stream:
            sent = {"file": (file.name, stream, "application/jsonl")}
            return str(self._ask("POST", "files", data={"purpose": "batch"}, files=sent)["id"])

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", "batches", json=body)

    def batch(self, batch_id: str) -> dict[str, Any]:
        return self._ask("GET", f"batches/{batch_id}")

    def cancel(self, batch_id: str) -> dict[str, Any]:
        return self._ask("POST", f"batches/{batch_id}/cancel")

    def batches(self, limit: int) -> list[dict[str, Any]]:
        """The newest so many."""
        found: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": min(limit, 100)}
        while len(found) < limit:
            page = self._ask("GET", "batches", params=query)
            found += page["data"]
            if not page["has_more"]:
                break
            query["after"] = page["last_id"]
        return found[:limit]

    def looks(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The batch as it stands, again and again until it has ended; a service that restarts is waited for.

        Raises:
            ApportionError: the service refuses, or does not answer for too long.
        """
        pause_s, answered_s = FIRST_LOOK_S, time.monotonic()
        yield batch
        while batch["status"] not in ENDED:
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_LOOK_S)
            try:
                batch = self.batch(batch["id"])
            except UnavailableError:
                if time.monotonic() > answered_s + PATIENCE_S:
                    raise
                continue
            answered_s = time.monotonic()
            yield batch

    def fetch(self, file_id: str, place: Path) -> None:
        """Writes a file's content to `place`, whole or not at all."""
        draft = place.with_name(f".{place.name}.part")
        try:
            with self._asked(), self._client.stream("GET", f"files/{file_id}/content") as answer:
                if answer.is_error:
                    answer.read()
                _check(answer)
                with draft.open("wb") as out:
                    for piece in answer.iter_bytes(READ_BYTES):
                        out.write(piece)
            draft.replace(place)
        finally:
            draft.unlink(missing_ok=True)

    def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        with self._asked():
            answer = self._client.request(method, path, **options)
        _check(answer)
        found: dict[str, Any] = answer.json()
        return found

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise UnavailableError(
                f"{self._client.base_url} does not answer ({type(error).__name__}); start the service, or correct --url"
            ) from error


def _check(answer: httpx.Response) -> None:
    """Raises: ApportionError: the service says so."""
    if not answer.is_error:
        return
    try:
        said = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = f"{answer.request.url} answers with status {answer.status_code}; is it this service's?"
    kind: type[ApportionError] = UnavailableError if answer.status_code >= 500 else InvalidRequestError
    raise kind(said)
