"""Hostile inputs, callers and faults, each with twenty innocent clients beside it, who must not notice.

`APPORTION_HOSTILE=full` runs all of them (some 15 minutes), otherwise a slice that is good for every test run;
`APPORTION_HOSTILE_OUT` names a file for the table.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.stamp import stamp
from tests.hostile.attack import Attack, Field
from tests.hostile.faults import FAULTS, raised_descriptors
from tests.hostile.innocents import Innocents, innocents, p95_s
from tests.hostile.inputs import BYTES, CALLERS, MARKER, OPTIONS, SIZES
from tests.hostile.neighbours import NEIGHBOURS
from tests.hostile.stage import INNOCENT_KEYS, Stage, stage
from tests.hostile.table import to_markdown
from tests.hostile.verdict import Verdict, judge, owed_nano

FULL_RUN = os.environ.get("APPORTION_HOSTILE") == "full"
pytestmark = [pytest.mark.ray, pytest.mark.hostile, pytest.mark.timeout(400)]

ATTACKS = [*BYTES, *SIZES, *OPTIONS, *CALLERS, *NEIGHBOURS, *FAULTS]
CHOSEN = [attack for attack in ATTACKS if FULL_RUN or attack.always]
QUIET_S, LEAST_S = 20.0 if FULL_RUN else 10.0, 5.0


@pytest.fixture(scope="module")
def attacked(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    raised_descriptors()
    with stage(tmp_path_factory.mktemp("hostile")) as found:
        yield found


@pytest.fixture(scope="module")
def clients(attacked: Stage) -> Iterator[Innocents]:
    with innocents(attacked.url, INNOCENT_KEYS) as clients:
        yield clients


@pytest.fixture(scope="module")
def quiet_s(attacked: Stage, clients: Innocents) -> float:
    """The innocents' p95 without an attack."""
    clients.ask_as("warm-up")
    time.sleep(QUIET_S / 2)
    clients.ask_as("quiet")
    time.sleep(QUIET_S)
    clients.pause()
    answers = [answer for answer in clients.answers if answer.tenant == "quiet"]
    ends = {(answer.status, answer.rung, answer.complaint) for answer in answers}
    assert ends == {(200, "mip", "")}
    return p95_s(answers)


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> Iterator[list[Verdict]]:
    found: list[Verdict] = []
    yield found
    print("", to_markdown(found), sep="\n")
    if out := os.environ.get("APPORTION_HOSTILE_OUT"):
        rows = [dataclasses.asdict(verdict) for verdict in found]
        Path(out).write_text(json.dumps({"stamp": stamp(attacks=len(found)), "attacks": rows}, indent=1) + "\n")


@pytest.mark.parametrize("attack", CHOSEN, ids=lambda attack: attack.name)
def test_innocents_do_not_notice(
    attack: Attack, attacked: Stage, clients: Innocents, quiet_s: float, verdicts: list[Verdict]
) -> None:
    verdict = under(attack, attacked, clients, quiet_s, "once")
    if verdict.complaints:  # the machine has other guests, whose work looks like an attack's: not twice in a row
        print("first try:", verdict)
        verdict = dataclasses.replace(under(attack, attacked, clients, quiet_s, "again"), tries=2)
    verdicts.append(verdict)
    assert verdict.complaints == []


def under(attack: Attack, attacked: Stage, clients: Innocents, quiet_s: float, turn: str) -> Verdict:
    """What becomes of the innocents while the attack lasts, and of their money; nothing may be held afterwards."""
    attacked.wait_until_calm()
    tenant = f"{attack.name.replace(' ', '-').replace(',', '')}-{turn}"
    field, began_s = Field(attacked), time.monotonic()
    clients.ask_as(tenant)
    time.sleep(1.0)
    try:
        attack.run(field)
        time.sleep(max(1.0, LEAST_S - (time.monotonic() - began_s)))
    finally:
        clients.pause()
    attacked.wait_until_calm()
    answers = [answer for answer in clients.answers if answer.tenant == tenant]
    assert len({answer.client for answer in answers}) == len(INNOCENT_KEYS)
    least_nano, most_nano = owed_nano(answers, field.struck_s)
    assert least_nano <= attacked.spent_nano(tenant) <= most_nano
    return judge(attack, dict(field.seen), answers, field.struck_s, quiet_s)


def test_no_log_holds_what_somebody_asked(attacked: Stage, verdicts: list[Verdict]) -> None:
    logs = [path for path in Path("/tmp/ray/session_latest/logs").rglob("*") if path.is_file()]
    assert [path.name for path in logs if MARKER.encode() in path.read_bytes()] == []
    assert len(logs) > 10
