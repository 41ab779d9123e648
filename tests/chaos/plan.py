"""What the storm is made of: requests in a seeded order, so that a run can be repeated, and who is killed when.

Knows nothing of the network. Every request says what may come back.
"""

from __future__ import annotations

import enum
import json
import random
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.zoo.tasks import generate
from tests.deployments.service import MODELS

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
POOL = 150  # prompts; each is asked many times, so that answers can be compared
POOR = "poor"  # the tenant that runs out of money


class Kind(enum.StrEnum):
    """Why a request is in the storm."""

    plain = "answered whole"
    stream = "answered as a stream"
    named = "names its model"
    several = "several prompts"
    hurried = "has a short deadline"
    poor = "its tenant's budget runs out"
    leaves_early = "client leaves before or at dispatch"
    leaves_stream = "client leaves in the middle of the stream"
    malformed = "malformed, refused at the door"
    refused = "malformed, refused by planner or engine"


# Of 100 requests outside of bursts.
MIX = {
    Kind.plain: 30,
    Kind.stream: 22,
    Kind.named: 8,
    Kind.several: 3,
    Kind.hurried: 7,
    Kind.poor: 5,
    Kind.leaves_early: 7,
    Kind.leaves_stream: 6,
    Kind.malformed: 9,
    Kind.refused: 3,
}


@dataclass(frozen=True)
class Shot:
    """One request.

    `statuses` may be answered whatever happens elsewhere; `leave_after_s` and `leave_after_chunks` are when its
    client leaves; shots of the same `burst` are sent at once.
    """

    index: int
    kind: Kind
    path: str = CHAT
    body: dict[str, Any] | bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    statuses: frozenset[int] = frozenset({200})
    timeout_s: float | None = None
    leave_after_s: float | None = None
    leave_after_chunks: int | None = None
    burst: int | None = None

    @property
    def prompt(self) -> str:
        """What identifies requests that must be answered alike."""
        if isinstance(self.body, bytes):
            return ""
        return json.dumps({k: v for k, v in self.body.items() if k in {"messages", "prompt", "max_tokens"}})

    @property
    def payload(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Kill:
    """SIGKILL for a part when so many requests have been sent."""

    part: str
    at: int


@dataclass(frozen=True)
class Plan:
    shots: tuple[Shot, ...]
    kills: tuple[Kill, ...]


MALFORMED: tuple[tuple[Any, int], ...] = (
    (b"{", 400),
    (b"[1, 2]", 400),
    (b"\xff\xfe\x00", 400),
    (b"", 400),
    (b"[" * 5000, 400),
    ({"messages": []}, 400),
    ({"messages": [{"role": "user", "content": 5}]}, 400),
    ({"messages": "hello"}, 400),
    ({"model": "nobody"}, 404),
    ({"max_tokens": -1}, 400),
    ({"max_tokens": 10**400}, 400),
    ({"n": "many"}, 400),
    ({"routing": {"colour": "red"}}, 400),
    ({"routing": {"models": ["nobody"]}}, 404),
    ({"routing": {"strategy": "magic"}}, 400),
    ({"routing": {"strategy": "mip", "options": {"name": "x"}}}, 400),
    ({"routing": {"strategy": "mip", "options": {"rows": []}}}, 400),
    ({"routing": {"strategy": "static", "options": {"model": 99}}}, 400),
    ({"routing": {"priority": 99}}, 400),
    ({"routing": {"timeout_s": -1}}, 400),
    (b'{"model": "auto", "messages": [{"role": "user", "content": "' + b"x" * (4 << 20) + b'"}]}', 413),
)
REFUSED: tuple[tuple[dict[str, Any], int], ...] = (
    ({"temperature": -3}, 400),
    ({"messages": [{"role": "user", "content": "word " * 2000}]}, 400),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400),
    ({"routing": {"max_cost_usd": 1e-12}}, 402),
    ({"routing": {"min_success": 1.0}}, 422),
)
SHED = frozenset({429})  # the queue is full, or too slow for the request's deadline


def make_plan(requests: int, seed: int, *, bursts: int, burst_size: int, kills: tuple[str, ...]) -> Plan:
    """A storm of so many requests, `bursts` of them at once, with the kills spread evenly over the rest."""
    rng = random.Random(seed)
    prompts = [example.prompt for example in generate("test", POOL, seed)]
    kinds, weights = list(MIX), list(MIX.values())
    shots: list[Shot] = []
    starts = {round((requests - burst_size) * (b + 0.5) / bursts): b for b in range(bursts)}
    burst: int | None = None
    ends = -1
    for index in range(requests):
        if index in starts:
            burst, ends = starts[index], index + burst_size
        elif index == ends:
            burst = None
        kind = rng.choice([Kind.plain, Kind.stream]) if burst is not None else rng.choices(kinds, weights)[0]
        shots.append(replace(_shot(index, kind, rng, prompts), burst=burst))
    calm = [shot.index for shot in shots if shot.burst is None]
    places = [calm[round(len(calm) * (k + 0.7) / (len(kills) + 0.7))] for k in range(len(kills))]
    return Plan(tuple(shots), tuple(Kill(part, place) for part, place in zip(kills, places, strict=True)))


def _shot(index: int, kind: Kind, rng: random.Random, prompts: list[str]) -> Shot:
    chat = _chat(rng.choice(prompts))
    headers = {"content-type": "application/json", "x-router-priority": str(rng.randint(-3, 3))}
    shot = Shot(index, kind, body=chat, headers=headers, statuses=frozenset({200}) | SHED)
    match kind:
        case Kind.plain:
            return shot
        case Kind.stream:
            return replace(shot, body=chat | {"stream": True})
        case Kind.named:
            return replace(shot, body=chat | {"model": rng.choice(MODELS), "stream": rng.random() < 0.5})
        case Kind.several:
            body = {"model": "auto", "prompt": rng.sample(prompts, rng.randint(2, 4)), "max_tokens": 12}
            return replace(shot, path=COMPLETION, body=body)
        case Kind.hurried:
            timeout_s = rng.choice([0.03, 0.2, 1.0, 4.0])
            headers["x-router-timeout-s"] = f"{timeout_s:g}"
            body = chat | {"stream": rng.random() < 0.5, "max_tokens": rng.choice([8, 100]), "ignore_eos": True}
            return replace(shot, body=body, timeout_s=timeout_s, statuses=shot.statuses | {504})
        case Kind.poor:
            return replace(shot, body=chat | {"stream": rng.random() < 0.5}, statuses=shot.statuses | {402})
        case Kind.leaves_early:
            body = _chat(rng.choice(prompts)) | {"stream": rng.random() < 0.5, "max_tokens": 120, "ignore_eos": True}
            return replace(shot, body=body, leave_after_s=rng.choice([0.0, 0.003, 0.01, 0.03, 0.1]))
        case Kind.leaves_stream:
            body = _chat(rng.choice(prompts)) | {"stream": True, "max_tokens": 120, "ignore_eos": True}
            return replace(shot, body=body, leave_after_chunks=rng.randint(1, 8))
        case Kind.malformed:
            wrong, status = rng.choice(MALFORMED)
            body = wrong if isinstance(wrong, bytes) else chat | wrong
            return replace(shot, body=body, statuses=frozenset({status}))
        case Kind.refused:
            wrong, status = rng.choice(REFUSED)
            return replace(shot, body=chat | wrong, statuses=frozenset({status}) | SHED)


def _chat(prompt: str) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
