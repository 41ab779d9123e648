"""Requests that no client should send, each several times over, with a word in them that nobody else may ever see."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from tests.hostile.attack import Attack, Field
from tests.hostile.stage import key

CHAT, COMPLETION, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"
MARKER = "Quetzalcoatlus"  # in every hostile prompt, in no task of the zoo
SECONDS, PARALLEL = 4.0, 4
CHAT_HEADERS = {"content-type": "application/json"}
PAUSE_S = 0.2


@dataclass(frozen=True)
class Shot:
    """One request as bytes."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


def shot(path: str, body: Any, **headers: str) -> Shot:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Shot(path, raw, CHAT_HEADERS | {k.replace("_", "-"): v for k, v in headers.items()})


def chat(content: Any = MARKER, **fields: Any) -> Shot:
    return shot(CHAT, {"model": "auto", "messages": [{"role": "user", "content": content}], "max_tokens": 4} | fields)


def completion(prompt: Any = MARKER, **fields: Any) -> Shot:
    return shot(COMPLETION, {"model": "auto", "prompt": prompt, "max_tokens": 4} | fields)


def caller_of(url: str) -> httpx.Client:
    """One for all of an attack's threads: a client of its own for each request would cost more than the request."""
    return httpx.Client(base_url=url, timeout=60, verify=False, limits=httpx.Limits(max_connections=None))


def send(client: httpx.Client, shot: Shot, caller: str) -> str:
    """How it ended: a status, or 'lost'."""
    try:
        answer = client.request(shot.method, shot.path, content=shot.body, headers=shot.headers | key(caller))
    except httpx.HTTPError:
        return "lost"
    return str(answer.status_code)


def barrage(
    shots: Sequence[Shot], caller: str = "stranger", parallel: int = PARALLEL, seconds: float = SECONDS
) -> Callable[[Field], None]:
    """Sends the shots in turn, so many at a time, for so long."""

    def run(field: Field) -> None:
        until_s = time.monotonic() + seconds

        def client(http: httpx.Client, number: int) -> None:
            turn = number
            while time.monotonic() < until_s or turn < len(shots):
                field.seen[send(http, shots[turn % len(shots)], caller)] += 1
                turn += parallel
                time.sleep(PAUSE_S)

        with caller_of(field.stage.url) as http, ThreadPoolExecutor(parallel) as pool:
            list(pool.map(partial(client, http), range(parallel)))

    return run


def hostile(name: str, shots: Sequence[Shot], *ends: str, always: bool = False, **options: Any) -> Attack:
    return Attack(name, barrage(shots, **options), frozenset(ends), always=always)


LONE = b"\xed\xa0\x80 " + MARKER.encode()
SCHEMA_BOMB: dict[str, Any] = {"type": "object", "properties": {}}
for _level in range(60):
    SCHEMA_BOMB = {"type": "object", "properties": {"a": SCHEMA_BOMB}, "required": ["a"]}

BYTES = (
    hostile(
        "half a surrogate pair as raw bytes",
        [
            shot(COMPLETION, b'{"prompt": "' + LONE + b'"}'),
            shot(CHAT, b'{"messages": [{"role": "user", "content": "' + LONE + b'"}]}'),
        ],
        "400",
        always=True,
    ),
    hostile(
        "half a surrogate pair as an escape",
        [
            shot(CHAT, b'{"messages": [{"role": "user", "content": "\\ud800 ' + MARKER.encode() + b'"}]}'),
            shot(CHAT, b'{"messages": [{"role": "user", "name": "\\udfff", "content": "' + MARKER.encode() + b'"}]}'),
            shot(COMPLETION, b'{"prompt": ["fine", "\\ud83d"], "user": "\\ud83d"}'),
        ],
        "400",
    ),
    hostile(
        "UTF-16 and UTF-32 bodies",
        [
            shot(CHAT, ('{"messages": [{"role": "user", "content": "\\ud800 ' + MARKER + '"}]}').encode("utf-16")),
            shot(CHAT, ('{"messages": [{"role": "user", "content": "' + MARKER + '"}]}').encode("utf-32")),
        ],
        "400",
    ),
    hostile(
        "Latin-1 bytes, NULs, control characters",
        [
            shot(CHAT, '{"messages": [{"role": "user", "content": "é'.encode("latin-1") + MARKER.encode() + b'"}]}'),
            shot(CHAT, b'{"messages": [{"role": "user", "content": "\x00' + MARKER.encode() + b'"}]}'),
            chat("\x00\x01\x02\x7f\x85\u2028 " + MARKER),
        ],
        "400",
        "200",
    ),
    hostile(
        "broken and bottomless JSON",
        [
            shot(CHAT, b"{"),
            shot(CHAT, b"[" * 100_000),
            shot(CHAT, b'{"a":' * 50_000),
            shot(CHAT, b""),
            shot(CHAT, b'{"max_tokens": ' + b"9" * 100_000 + b"}"),
            shot(CHAT, b'{"temperature": NaN}'),
            shot(CHAT, b'"' + MARKER.encode() + b'"'),
        ],
        "400",
    ),
    hostile(
        "what the encoder has never seen",
        [
            chat("\U0001f469\u200d\U0001f680" * 40 + MARKER),
            chat("a\u0301" * 100 + MARKER),
            chat("\u202e" * 50 + MARKER),
            chat("\uffff\ufdd0\U0010ffff " + MARKER),
            chat("\u0e33" * 60 + MARKER),
            chat(" " * 200),
            chat("\n" * 200),
        ],
        "400",
        "200",
        always=True,
    ),
    hostile(
        "a compressed body that unfolds to a gigabyte",
        [
            Shot(
                CHAT, gzip.compress(b" " * 2**26) * 4, {"content-type": "application/json", "content-encoding": "gzip"}
            ),
            Shot(CHAT, b"\x1f\x8b not gzip", {"content-type": "application/json", "content-encoding": "gzip"}),
        ],
        "400",
        "413",
        "415",
    ),
    hostile(
        "other content types",
        [
            shot(CHAT, b"a=1&b=2", content_type="application/x-www-form-urlencoded"),
            shot(CHAT, b"--x\r\n\r\n", content_type="multipart/form-data; boundary=x"),
        ],
        "400",
        "415",
    ),
)

SIZES = (
    hostile(
        "a prompt of 3.9 MB",
        [chat(MARKER + "x" * 3_900_000), completion("word " * 780_000)],
        "400",
        always=True,
        parallel=2,
    ),
    hostile("a prompt of 1 MB without a space", [chat("\u4e2d" * 330_000)], "400", parallel=2),
    hostile("a body beyond the bound", [chat("x" * 6_000_000)], "413", "lost", parallel=2),
    hostile(
        "a hundred thousand messages",
        [
            shot(CHAT, {"messages": [{"role": "user", "content": "a"}] * 60_000}),
        ],
        "400",
        parallel=2,
    ),
    hostile(
        "ten thousand prompts, stops and tools",
        [
            completion(["a"] * 10_000),
            chat(stop=["x"] * 10_000),
            chat(tools=[{"type": "function", "function": {"name": f"f{i}", "parameters": {}}} for i in range(5_000)]),
        ],
        "400",
        parallel=2,
    ),
    hostile(
        "headers of 200 kB",
        [
            shot(CHAT, b"{}", x_router_tenant="t" * 200_000),
            shot(CHAT, b"{}", **{f"x-{i}": "y" * 900 for i in range(200)}),
        ],
        "400",
        "431",
        "lost",
        "403",
    ),
    hostile("a name of a model of 1 MB", [chat(model="m" * 1_000_000), chat(model="../../etc/passwd\n")], "400", "404"),
)

OPTIONS = (
    hostile(
        "n=64, one token each",
        [chat(n=64, max_tokens=1, temperature=1)],
        "200",
        "400",
        "402",
        "429",
        always=True,
        parallel=2,
    ),
    hostile("n beyond all bounds", [chat(n=10**6), chat(n=10**9), chat(n=-1), chat(n=0), chat(n=1.5)], "400"),
    hostile(
        "max_tokens, deadlines and seeds beyond all bounds",
        [
            chat(max_tokens=10**9),
            chat(max_tokens=0),
            chat(max_tokens=-5),
            chat(max_tokens=10**400),
            chat(seed=2**70),
            chat(routing={"timeout_s": 1e300}),
            chat(routing={"timeout_s": 1e-9}),
            chat(temperature=1e300),
        ],
        "200",
        "400",
        "504",
    ),
    hostile(
        "priorities that are not allowed", [chat(routing={"priority": p}) for p in (3, 10**6, -(10**6))], "400", "403"
    ),
    hostile(
        "money and success that cannot be",
        [chat(routing={"max_cost_usd": v}) for v in (-1, 1e-300, 1e300)]
        + [chat(routing={"min_success": v}) for v in (1.0, 1.1, -1, 0.999999)],
        "200",
        "400",
        "402",
        "422",
    ),
    hostile(
        "strategies that are not allowed",
        [
            chat(routing={"strategy": "mip"}),
            chat(routing={"strategy": "mipp"}),
            chat(routing={"strategy": "robust", "gamma": 1e308}),
        ],
        "400",
        "403",
    ),
    hostile(
        "a thousand models to choose from",
        [chat(routing={"models": [f"model-{i}" for i in range(1_000)]})],
        "400",
        "404",
        "403",
    ),
    hostile(
        "token ids of no vocabulary",
        [
            completion([10**6, -1, 2**40], model="wren"),
            completion([[0] * 10, [2**31]], model="wren"),
            completion([5] * 100_000, model="wren"),
            chat(logit_bias={"999999": 100}),
            chat(logit_bias={"-1": -100}),
            chat(stop_token_ids=[-1, 2**40]),
            chat(allowed_token_ids=[2**40]),
            chat(bad_words=["\x00"]),
        ],
        "200",
        "400",
        always=True,
    ),
    hostile(
        "schemas and expressions that explode",
        [
            chat(structured_outputs={"regex": "(a|aa)+" * 30 + "$"}),
            chat(structured_outputs={"regex": "((((a{1,500}){1,500}){1,500}))"}),
            chat(structured_outputs={"grammar": "root ::= root root"}),
            chat(structured_outputs={"regex": "("}),
            chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA_BOMB}}),
            chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}),
        ],
        "200",
        "400",
        "504",
        "503",
    ),
    hostile(
        "more logprobs than there are tokens",
        [
            chat(logprobs=True, top_logprobs=20),
            chat(logprobs=True, top_logprobs=10**6),
            completion(prompt_logprobs=10**6),
            completion(logprobs=-1),
            completion(echo=True, logprobs=5),
        ],
        "200",
        "400",
    ),
    hostile(
        "embeddings, pictures and files for prompts",
        [
            completion(prompt=None, prompt_embeds="AAAA" * 100),
            chat([{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x"}}]),
            chat([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
            chat([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]),
        ],
        "400",
    ),
)

CALLERS = (
    hostile(
        "a tenant's name in a header, without leave",
        [shot(CHAT, chat().body, x_router_tenant=f"name-{i}") for i in range(50)],
        "403",
        always=True,
    ),
    hostile(
        "no key and wrong keys",
        [
            shot(CHAT, chat().body),
            shot(ROUTE, b"[]"),
            shot(CHAT, chat().body, x_api_key="x" * 10_000),
        ],
        "401",
        caller="nobody",
        parallel=8,
    ),
    hostile("a key whose money is gone", [chat(max_tokens=200)], "200", "402", "429", caller="poor"),
    hostile(
        "a plan of four thousand requests",
        [
            shot(ROUTE, {"requests": [{"messages": [{"role": "user", "content": MARKER}]}] * 4_096}),
        ],
        "400",
        "413",
        "429",
        always=True,
    ),
    hostile(
        "plans without end",
        [
            shot(
                ROUTE,
                {
                    "requests": [
                        {"messages": [{"role": "user", "content": f"{MARKER} {i} {'word ' * 40}"}]} for i in range(64)
                    ]
                },
            ),
        ],
        "200",
        "400",
        "429",
        "503",
        "504",
        parallel=3,
    ),
    hostile(
        "other methods and paths",
        [
            Shot("/v1/chat/completions", b"", method="DELETE"),
            Shot("//v1//chat//completions", b"{}"),
            Shot("/metrics/../health", b""),
            Shot("/v1/models/" + "%2e" * 500, b"", method="GET"),
            Shot("/v1/models/%00", b"", method="GET"),
            Shot("/" + "a" * 6_000, b""),
        ],
        "400",
        "404",
        "405",
        "414",
        "200",
        "401",
    ),
)
