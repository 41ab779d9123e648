"""The ways that one load takes to an engine, and whose CPU counts as the way's and whose as the engine's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.load.chat import PATH
from benchmarks.load.cpu import HAPROXY
from benchmarks.load.service import Place

PREDICTOR = "/Predictor"


def routed(application: str) -> tuple[str, ...]:
    """Processes of the service of that name that a request costs CPU."""
    return (HAPROXY, *(f"{application}/{part}" for part in ("Ingress", "Router", "Predictor", "Solver")))


ROUTED = routed("apportion")
LONG, WATCHED = "auto, 176 tokens", "auto, watched"
WATCHED_PREFIX = "/watched"


@dataclass(frozen=True)
class Arm:
    """One way to an engine.

    url: of the chat endpoint. model: what requests ask for. way: kinds of processes between client and engine.
    engine: kinds of processes that answer. pids: processes that no command line tells, by kind. words: before the
    question, which has some 10 tokens; each is one. headers: that the way asks for. watch: the service whose metrics
    are scraped and whose console is open meanwhile.
    """

    name: str
    url: str
    model: str
    way: tuple[str, ...]
    engine: tuple[str, ...]
    pids: Mapping[str, int]
    words: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    watch: str | None = None

    def way_ms(self, cpu_ms: Mapping[str, float]) -> float:
        return sum(cpu_ms.get(kind, 0.0) for kind in self.way)

    def encoder_ms(self, cpu_ms: Mapping[str, float]) -> float:
        return sum(cpu_ms.get(kind, 0.0) for kind in self.way if kind.endswith(PREDICTOR))

    def engine_ms(self, cpu_ms: Mapping[str, float]) -> float:
        return sum(cpu_ms.get(kind, 0.0) for kind in self.engine)


def service_arms(base: str, engine: Place, model: str, models: tuple[str, ...]) -> list[Arm]:
    """Straight to an engine, through Serve's passthrough, and through the router with a fixed model and with `auto`.

    `auto` has long prompts once more, and is once more asked of a second service of which all is recorded and watched.
    """
    engines, theirs = (tuple(f"{of}/Engine-{name}" for name in models) for of in ("apportion", "watched"))
    watched = base + WATCHED_PREFIX
    passthrough = (HAPROXY, "passthrough/PassthroughIngress")
    return [
        Arm("engine", engine.url + PATH, model, (), engines, {}, headers=engine.headers),
        Arm("passthrough", f"{base}/passthrough{PATH}", model, passthrough, ("passthrough/CannedReplica",), {}),
        Arm("fixed", base + PATH, model, ROUTED, engines, {}),
        Arm("auto", base + PATH, "auto", ROUTED, engines, {}),
        Arm(LONG, base + PATH, "auto", ROUTED, engines, {}, words=166),
        Arm(WATCHED, watched + PATH, "auto", routed("watched"), theirs, {}, watch=watched),
    ]
