import subprocess
import sys
import time

import pytest

from benchmarks.load.cpu import CLIENT, cpu_seconds, kind_of, spent_ms


@pytest.mark.parametrize(
    ("title", "name", "kind"),
    [
        ("ray::ServeReplica:apportion:Router.exchange", "ray::ServeRepl", "apportion/Router"),
        ("ray::ServeReplica:apportion:Engine-wren", "ray::ServeRepl", "apportion/Engine-wren"),
        ("/x/haproxy -f /y", "haproxy", "haproxy"),
        ("VLLM::EngineCore", "VLLM::EngineCor", "engine core"),
        ("python server.py", "python", None),
    ],
)
def test_processes_are_known_by_their_command_lines(title: str, name: str, kind: str | None) -> None:
    assert kind_of(title, name) == kind


def test_cpu_goes_to_who_spends_it() -> None:
    burn = "import time\nend = time.time() + 30\nwhile time.time() < end: pass"
    nap = "import time; time.sleep(30)"
    busy = subprocess.Popen([sys.executable, "-c", burn])
    idle = subprocess.Popen([sys.executable, "-c", nap])
    try:
        time.sleep(0.3)
        others = {"busy": busy.pid, "idle": idle.pid}
        before = cpu_seconds(others)
        time.sleep(0.6)
        spent = spent_ms(before, cpu_seconds(others))
    finally:
        for process in (busy, idle):
            process.kill()
            process.wait()
    assert spent["busy"] > 50
    assert spent["idle"] < spent["busy"] / 2
    assert CLIENT in spent


def test_a_process_that_has_ended_is_no_error() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert "gone" not in cpu_seconds({"gone": done.pid})
