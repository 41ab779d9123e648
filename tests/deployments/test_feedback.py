"""/v1/feedback over HTTP: a real ingress, a real Router with its records, and a played engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from apportion.router.batch.messages import EngineReplica
from apportion.router.records.schema import FEEDBACK, PROMPTS, REQUESTS
from apportion.router.records.store import Store
from tests.deployments.ingress.dispatching import serving, simulated
from tests.deployments.ingress.front import ingress_of
from tests.deployments.local_router import NAMES, PRICES, close_router, configuration, keys_file, make_router

KEYS = {
    "correct": {"kind": "boolean", "score": True},
    "rating": {"kind": "number"},
    "remark": {"kind": "text"},
}
CHAT = {"messages": [{"role": "user", "content": "What is 2 plus 3?"}], "max_tokens": 4}
ALICE, BOB = ({"authorization": f"Bearer {name}"} for name in ("alice", "bob"))


class _Handle:
    """A Router's handle: its methods by their names."""

    def __init__(self, router: Any) -> None:
        self.router = router

    def __getattr__(self, name: str) -> Any:
        return type("Method", (), {"remote": staticmethod(getattr(self.router, name))})


class Served:
    """One service after the other on the same records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder / "records"

    @contextlib.asynccontextmanager
    async def running(self, engine: Any = None, **sections: Any) -> AsyncIterator[httpx.AsyncClient]:
        entries = [{"name": "alice", "feedback_per_minute": 6000}, {"name": "bob", "feedback_per_minute": 12}]
        records = {"uri": str(self.records), "prompts": True}
        config = configuration(
            None,
            **{"keys": keys_file(self.folder / "keys.yaml", *entries), "records": records, "feedback": {"keys": KEYS}}
            | sections,
        )
        router = make_router(config)
        async with serving(engine or simulated()) as server:
            heartbeats = [EngineReplica(f"{model.name}-0", model.name, server.url, 8) for model in config.models]
            for replica in heartbeats:
                await router.announce(replica)
            beat = asyncio.create_task(_beat(router, heartbeats))
            try:
                async with (
                    ingress_of(config, _Handle(router)) as front,
                    httpx.AsyncClient(base_url=front.server.url, headers=ALICE, timeout=30) as client,
                ):
                    yield client
            finally:
                beat.cancel()
                await close_router(router)
                if router._feedback.records_state() is not None:
                    router._feedback.close()

    def requests(self) -> dict[str, dict[str, Any]]:
        """What is on the disk, by the answers' names."""
        return {row["id"]: row for row in Store.open(str(self.records)).read(REQUESTS).to_pylist()}

    def feedback(self) -> list[dict[str, Any]]:
        """What is on the disk, in the order in which it was said."""
        return sorted(Store.open(str(self.records)).read(FEEDBACK).to_pylist(), key=lambda row: row["time"])


async def _beat(router: Any, replicas: list[EngineReplica]) -> None:
    while True:
        await asyncio.sleep(1)
        for replica in replicas:
            await router.announce(replica)


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


async def chat(client: httpx.AsyncClient, **options: Any) -> httpx.Response:
    answer = await client.post("/v1/chat/completions", **{"json": CHAT} | options)
    assert answer.status_code == 200, answer.text
    return answer


async def say(client: httpx.AsyncClient, *, headers: dict[str, str] = ALICE, **body: Any) -> tuple[int, str | None]:
    """Status, and the error's code."""
    answer = await client.post("/v1/feedback", json=body, headers=headers)
    return answer.status_code, answer.json().get("error", {}).get("code")


async def test_own_answers_take_feedback_by_id_and_by_header_also_after_a_restart(served: Served) -> None:
    async with served.running() as client:
        answer = await chat(client)
        name = answer.headers["x-router-id"]
        assert answer.headers["request-id"] == name
        assert await say(client, id=answer.json()["id"], key="correct", value=True, comment="5") == (202, None)
        assert await say(client, id=name, key="rating", value=0.25) == (202, None)
        assert await say(client, id=answer.json()["id"], key="remark", value="well done") == (202, None)
    async with served.running() as client:
        assert await say(client, id=answer.json()["id"], key="correct", value=None) == (202, None)
        assert (await say(client, id=name, key="correct", value=True, headers=BOB))[0] == 404

    rows = served.feedback()
    assert {row["id"] for row in rows} == {name}
    assert [(row["key"], row["number"], row["text"], row["comment"]) for row in rows] == [
        ("correct", 1.0, None, "5"),
        ("rating", 0.25, None, None),
        ("remark", None, "well done", None),
        ("correct", None, None, None),
    ]


async def test_others_answers_unknown_and_old_ones_are_not_found(served: Served) -> None:
    async with served.running() as client:
        mine = (await chat(client)).json()["id"]
        assert await say(client, id=mine, key="correct", value=True, headers=BOB) == (404, "answer_not_found")
        forged = mine[:-1] + ("0" if mine[-1] != "0" else "1")
        for other in (forged, "chatcmpl-" + "0" * 32, "nothing"):
            assert await say(client, id=other, key="correct", value=True) == (404, "answer_not_found")
    async with served.running(feedback={"keys": KEYS, "days": 1e-9}) as client:
        assert await say(client, id=mine, key="correct", value=True) == (404, "answer_not_found")
    assert not served.feedback()


async def test_what_is_no_feedback_is_refused_with_its_field(served: Served) -> None:
    async with served.running() as client:
        mine = (await chat(client)).json()["id"]
        for field, body in {
            "key": {"id": mine, "key": "corect", "value": True},
            "value": {"id": mine, "key": "correct", "value": 1},
            "id": {"id": 7, "key": "correct", "value": True},
            "other": {"id": mine, "key": "correct", "value": True, "other": 1},
        }.items():
            answer = await client.post("/v1/feedback", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
        for value in (1.5, -0.1, "good", [1]):
            assert (await say(client, id=mine, key="rating", value=value))[0] == 400
        assert (await say(client, id=mine, key="remark", value=True))[0] == 400
        assert (await say(client, id=mine, key="correct"))[0] == 400  # absent is not null
        assert (await client.post("/v1/feedback", content=b"[1]")).status_code == 400
        large = await client.post("/v1/feedback", json={"id": mine, "key": "remark", "value": "x" * 4096})
        assert (large.status_code, large.json()["error"]["code"]) == (413, "payload_too_large")
        assert (await say(client, id=mine, key="correct", value=True, headers={"authorization": "Bearer x"}))[0] == 401
    assert not served.feedback()


async def test_each_key_says_only_so_much_a_minute(served: Served) -> None:
    async with served.running() as client:
        mine, others = [(await chat(client, headers=one)).json()["id"] for one in (ALICE, BOB)]
        told = [await say(client, id=others, key="correct", value=True, headers=BOB) for _ in range(3)]
        assert (202, None) in told
        assert told[-1] == (429, "rate_limit_exceeded")
        guessed = [await say(client, id=f"chatcmpl-{i:040x}", key="correct", value=True, headers=BOB) for i in range(3)]
        assert guessed[-1] == (429, "rate_limit_exceeded")  # names cannot be tried in a flood either
        assert await say(client, id=mine, key="correct", value=True) == (202, None)


async def test_without_the_section_nothing_is_said_of_answers(served: Served) -> None:
    async with served.running(records=None, feedback=None) as client:
        answer = await chat(client)
        assert await say(client, id=answer.json()["id"], key="correct", value=True) == (404, "answer_not_found")
    assert not served.records.exists()


async def test_each_request_that_has_ended_is_a_row(served: Served) -> None:
    async with served.running() as client:
        whole = await chat(client)
        named = await chat(client, json={"model": "lark", "messages": [{"role": "user", "content": "x"}]})
        streamed = await chat(client, headers=BOB, json=CHAT | {"stream": True})
        refused = await client.post("/v1/chat/completions", json=CHAT | {"routing": {"max_cost_usd": 0}})
        assert refused.status_code == 402

    rows = served.requests()
    assert rows.keys() == {answer.headers["x-router-id"] for answer in (whole, named, streamed)}
    row, headers = rows[whole.headers["x-router-id"]], whole.headers
    usage = whole.json()["usage"]
    assert (row["planned"], row["chosen"], row["named"]) == (
        headers["x-router-model"],
        headers["x-router-model"],
        False,
    )
    assert (row["input_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert row["cost_usd"] == pytest.approx(float(headers["x-router-settled-cost-usd"]))
    assert row["expected_cost_usd"] == pytest.approx(float(headers["x-router-cost-usd"]), rel=1e-4)
    assert [one["model"] for one in row["candidates"]] == list(NAMES)
    chosen = row["candidates"][NAMES.index(row["chosen"])]
    assert (chosen["allowed"], chosen["cost_usd"]) == (True, pytest.approx(row["expected_cost_usd"]))
    assert chosen["success"] == pytest.approx(float(headers["x-router-success"]), abs=1e-4)
    assert (row["propensity"], row["explored"], row["attempts"]) == (1.0, False, 1)
    assert (row["ending"], row["status"], row["rung"], row["strategy"]) == ("answered", 200, "mip", "mip")
    assert row["output_usd_per_million"] == PRICES[NAMES.index(row["chosen"])]
    assert 0 < row["first_byte_s"] <= row["total_s"] < 30

    other, third = rows[named.headers["x-router-id"]], rows[streamed.headers["x-router-id"]]
    assert (other["named"], other["chosen"]) == (True, "lark")
    assert (third["output_tokens"], third["status"]) == (4, 200)
    assert other["account"] == row["account"] != third["account"]
    assert len({one["text_hash"] for one in rows.values()}) == 3  # the same words, of another account
    assert "alice" not in str(rows)


async def test_prompts_are_kept_where_that_is_said(served: Served) -> None:
    async with served.running() as client:
        name = (await chat(client)).headers["x-router-id"]
    [row] = Store.open(str(served.records)).read(PROMPTS).to_pylist()
    assert (row["id"], row["prompt"], row["turns"]) == (name, "What is 2 plus 3?", 1)


async def test_prompts_are_not_kept_otherwise(served: Served) -> None:
    async with served.running(records={"uri": str(served.records)}) as client:
        await chat(client)
    assert "What is" not in "".join(path.read_bytes().decode("latin-1") for path in served.records.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"feedback": {"keys": KEYS}}, "is kept with `records`"),
        ({"records": {"uri": "records"}}, "relative"),
        ({"records": {"uri": "ftp://x/y"}}, "no store ftp://"),
        ({"records": {"uri": "/x"}, "feedback": {"keys": {}}}, "feedback.keys"),
        ({"records": {"uri": "/x"}, "feedback": {"keys": {"a b": {"kind": "text"}}}}, "feedback.keys.a b"),
        ({"records": {"uri": "/x"}, "feedback": {"keys": {"t": {"kind": "text", "score": True}}}}, "a text is none"),
        (
            {
                "records": {"uri": "/x"},
                "feedback": {"keys": {name: {"kind": "number", "score": True} for name in "ab"}},
            },
            "choose one",
        ),
    ],
)
def test_sections_that_do_not_go_together_are_named(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match="invalid configuration") as found:
        configuration(None, **sections)
    assert said in str(found.value)
