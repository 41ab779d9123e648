"""The ways that one load takes to an engine, and whose CPU counts as the way's and whose as the engine's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.load.chat import PATH
from benchmarks.load.cpu import HAPROXY
from benchmarks.load.service import Place

ENCODER = "apportion/Predictor"
ROUTED = (HAPROXY, "apportion/Ingress", "apportion/Router", ENCODER, "apportion/Solver")  # what a request costs CPU
LONG = "auto, 176 tokens"


@dataclass(frozen=True)
class Arm:
    """One way to an engine.

    url: of the chat endpoint. model: what requests ask for. way: kinds of processes between client and engine.
    engine: kinds of processes that answer. pids: processes that no command line tells, by kind. words: before the
    question, which has some 10 tokens; each is one. headers: that the way asks for.
    """

    name: str
    url: str
    model: str
    way: tuple[str, ...]
    engine: tuple[str, ...]
    pids: Mapping[str, int]
    words: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    def way_ms(self, cpu_ms: Mapping[str, float]) -> float:
        return sum(cpu_ms.get(kind, 0.0) for kind in self.way)

    def engine_ms(self, cpu_ms: Mapping[str, float]) -> float:
        return sum(cpu_ms.get(kind, 0.0) for kind in self.engine)


def service_arms(base: str, engine: Place, model: str, models: tuple[str, ...]) -> list[Arm]:
    """Straight to an engine, through Serve's passthrough, and through the router with a fixed model and with `auto`.

    `auto` has long prompts once more.
    """
    engines = tuple(f"apportion/Engine-{name}" for name in models)
    passthrough = (HAPROXY, "passthrough/PassthroughIngress")
    return [
        Arm("engine", engine.url + PATH, model, (), engines, {}, headers=engine.headers),
        Arm("passthrough", f"{base}/passthrough{PATH}", model, passthrough, ("passthrough/CannedReplica",), {}),
        Arm("fixed", base + PATH, model, ROUTED, engines, {}),
        Arm("auto", base + PATH, "auto", ROUTED, engines, {}),
        Arm(LONG, base + PATH, "auto", ROUTED, engines, {}, words=166),
    ]
