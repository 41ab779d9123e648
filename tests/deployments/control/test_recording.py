"""Records of a Router that is killed: what was written stays whole, and no more than a segment is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

from apportion.router.batch.messages import Course, Done, Ending, RouteItem
from apportion.router.records.schema import REQUESTS
from apportion.router.records.store import Store
from tests.deployments.local_router import Line, configuration
from tests.deployments.router_process import RouterProcess

SEGMENT = 10
COURSE = Course(0, 0.0, 0.1, 0.2, 200, 10, 5)


async def answer(link: Line, names: list[str]) -> None:
    async def one(name: str) -> None:
        decision = await link.plan(RouteItem(name, max_tokens=10))
        link.finish(Done(decision.id, 1e-6, Ending.answered, COURSE))

    await asyncio.gather(*map(one, names))


async def written(store: Store, at_least: int) -> list[str]:
    """Names of the requests on the disk, once there are so many."""
    names: list[str] = []
    for _ in range(400):
        names = store.read(REQUESTS)["id"].to_pylist()
        if len(names) >= at_least:
            break
        await asyncio.sleep(0.02)
    return names


async def test_a_router_that_is_killed_loses_a_segment_at_most(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    records = {"uri": str(tmp_path), "segment_rows": SEGMENT, "segment_s": 3600}
    process = RouterProcess(configuration(None, records=records, router={"host": "127.0.0.1"}))
    link = Line(process.channel.call)
    first, second = ([f"{life}{i:02}" for i in range(5 * SEGMENT - 3)] for life in "ab")
    await asyncio.to_thread(process.start)
    await answer(link, first)
    kept = await written(store, len(first) - SEGMENT)
    secret = store.secret()
    process.kill()
    await asyncio.to_thread(process.start)
    await answer(link, second)
    both = await written(store, len(kept) + len(second) - SEGMENT)
    await link.close()
    process.channel.close()
    process.kill()

    assert len(kept) == len(set(kept)) >= len(first) - SEGMENT
    assert set(kept) <= set(first)
    assert set(kept) <= set(both)
    assert len(both) == len(set(both)) >= len(kept) + len(second) - SEGMENT
    assert store.secret() == secret
