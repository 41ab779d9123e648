"""Callers who take more than their share: floods, slow senders, slow readers, connections for nothing."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx

from tests.deployments.bare_http import head
from tests.hostile.attack import Attack, Field
from tests.hostile.inputs import CHAT, CHAT_HEADERS, MARKER, Shot, barrage, caller_of, chat, send
from tests.hostile.stage import key

SECONDS = 6.0
STRANGER = key("stranger")


def connect(field: Field, *, receive_bytes: int | None = None) -> socket.socket:
    """A bare connection to the service."""
    parts = urlsplit(field.stage.url)
    peer = socket.socket()
    if receive_bytes is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    peer.settimeout(5)
    peer.connect((parts.hostname, parts.port))
    return peer


def all_at_once(shots: list[Shot], caller: str) -> Callable[[Field], None]:
    def run(field: Field) -> None:
        with caller_of(field.stage.url) as http, ThreadPoolExecutor(len(shots)) as pool:
            field.seen.update(pool.map(lambda one: send(http, one, caller), shots))

    return run


def leave_at_once(field: Field) -> None:
    """Requests whose clients are gone before, at, or soon after they are decided."""
    body = json.dumps({"messages": [{"role": "user", "content": MARKER}], "max_tokens": 200}).encode()
    until_s = time.monotonic() + SECONDS
    rng = random.Random(0)
    while time.monotonic() < until_s:
        with connect(field) as peer:
            peer.sendall(head(len(body), **STRANGER) + body)
            time.sleep(rng.uniform(0, 0.08))
        field.seen["left"] += 1


def leave_in_the_upload(field: Field) -> None:
    until_s = time.monotonic() + SECONDS
    while time.monotonic() < until_s:
        with connect(field) as peer:
            peer.sendall(head(100_000, **STRANGER) + b'{"messages": [')
            time.sleep(0.02)
        field.seen["left"] += 1


def trickle_bodies(field: Field) -> None:
    """Bodies that come a byte at a time, and would take for ever."""
    with ExitStack() as stack:
        peers = [stack.enter_context(connect(field)) for _ in range(100)]
        for peer in peers:
            peer.sendall(head(1_000_000, **STRANGER, x_router_timeout_s="5"))
        until_s = time.monotonic() + 2 * SECONDS
        while peers and time.monotonic() < until_s:
            for peer in list(peers):
                try:
                    peer.sendall(b" ")
                    peer.setblocking(False)
                    answer = peer.recv(4096)
                except BlockingIOError:
                    continue
                except OSError:
                    answer = b""
                finally:
                    peer.settimeout(5)
                field.seen[answer.split(b" ")[1].decode() if answer.startswith(b"HTTP") else "lost"] += 1
                peers.remove(peer)
            time.sleep(0.2)
        if peers:
            field.seen["still open"] = len(peers)


def trickle_headers(field: Field) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(connect(field)) for _ in range(100)]
        for line in head(10, **STRANGER).splitlines(keepends=True)[:-1]:
            for peer in peers:
                peer.sendall(line)
            time.sleep(1.0)
        field.seen["kept"] += len(peers)


def stay_idle(field: Field) -> None:
    """Connections that never ask anything."""
    with ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(connect(field))
            field.seen["open"] += 1
        time.sleep(SECONDS)


def never_read(field: Field) -> None:
    """Ask for megabytes and read none of them."""
    body = json.dumps(
        {"messages": [{"role": "user", "content": MARKER}], "n": 16, "max_tokens": 200, "ignore_eos": True}
        | {"stream": True, "logprobs": True, "top_logprobs": 20}
    ).encode()
    with ExitStack() as stack:
        for _ in range(4):
            peer = stack.enter_context(connect(field, receive_bytes=2048))
            peer.sendall(head(len(body), **STRANGER, x_router_timeout_s="8") + body)
            field.seen["asked"] += 1
        time.sleep(12)


def watch_closely(field: Field) -> None:
    """Everybody may ask how it is going, and some ask all the time."""
    until_s = time.monotonic() + SECONDS

    def watcher(path: str) -> None:
        with httpx.Client(base_url=field.stage.url, timeout=30) as client:
            while time.monotonic() < until_s:
                field.seen[str(client.get(path).status_code)] += 1
                time.sleep(0.02)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(watcher, ("/health", "/ready", "/health", "/ready")))


FLOOD = f"{MARKER}, what is 3 plus 4?"  # none of what engines fail with elsewhere
STRATEGIES = [chat(FLOOD, routing={"strategy": "mip", "options": {"gap": gap / 10_000}}) for gap in range(1, 61)]

NEIGHBOURS = (
    Attack(
        "one key asks for a hundred answers at once",
        all_at_once([chat(FLOOD, max_tokens=40)] * 100, "stranger"),
        frozenset({"200", "429"}),
        always=True,
    ),
    Attack(
        "a key asks for more at once than it may",
        all_at_once([chat(FLOOD, max_tokens=60)] * 120, "greedy"),
        frozenset({"200", "429"}),
    ),
    Attack(
        "twenty requests of 64 answers at once",
        all_at_once([chat(FLOOD, n=64, max_tokens=8, temperature=1)] * 20, "stranger"),
        frozenset({"200", "429", "402"}),
    ),
    Attack(
        "sixty strategies at once", all_at_once(STRATEGIES, "tinkerer"), frozenset({"200", "429", "400"}), always=True
    ),
    Attack("clients that leave as soon as they have asked", leave_at_once, frozenset({"left"}), always=True),
    Attack("clients that leave while they send", leave_in_the_upload, frozenset({"left"})),
    Attack("a hundred bodies that come byte by byte", trickle_bodies, frozenset({"408", "504", "lost"}), always=True),
    Attack("a hundred heads that come line by line", trickle_headers, frozenset({"kept"})),
    Attack("five hundred connections that ask nothing", stay_idle, frozenset({"open"})),
    Attack("streams of megabytes that nobody reads", never_read, frozenset({"asked"}), always=True),
    Attack("/health and /ready, two hundred times a second", watch_closely, frozenset({"200", "503"})),
    Attack(
        "malformed bodies, a hundred a second",
        barrage([Shot(CHAT, b"{", CHAT_HEADERS)], parallel=20),
        frozenset({"400"}),
    ),
)
