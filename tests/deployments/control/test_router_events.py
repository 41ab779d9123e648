"""What the Router tells whoever watches, by its real parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from apportion.router.batch.events import BatchPlanned, EndedUnserved, Event, RequestEnded, RequestRefused
from apportion.router.batch.messages import Course, Done, Ending, Report, RouteItem
from tests.deployments.local_router import LocalService, configuration, worst_usd

COURSE = Course(0, 0.001, 0.1, 0.2, 200)


def watched(service: LocalService) -> list[Event]:
    heard: list[Event] = []
    service.router._room.events.subscribe(heard.append)
    return heard


async def test_every_request_ends_once_and_its_costs_are_what_is_spent() -> None:
    service = LocalService(configuration(None))
    heard = watched(service)
    await service.announce()

    for number in range(20):
        await service.run(RouteItem(f"r{number}", max_tokens=10))
    state = await service.idle_state()
    await service.close()

    ends = [event for event in heard if isinstance(event, RequestEnded)]
    assert Counter(event.id for event in ends) == Counter(f"r{number}" for number in range(20))
    assert sum(event.cost_nano for event in ends) == round(state["spent_usd"] * 1e9)
    assert {event.cost_nano for event in ends} <= {round(worst_usd(event.model, 10) * 1e9) for event in ends}
    assert sum(int(event.placed.sum()) for event in heard if isinstance(event, BatchPlanned)) == 20


async def test_callers_over_their_rate_are_told_of() -> None:
    service = LocalService(configuration(None, anonymous={"requests_per_minute": 1}))
    heard = watched(service)
    await service.announce()

    codes = [await service.run(RouteItem(f"r{number}", max_tokens=10)) for number in range(3)]
    await service.close()

    assert codes[1:] == ["rate_limit_exceeded"] * 2
    refused = [event for event in heard if isinstance(event, RequestRefused)]
    assert [(event.id, event.code, event.status) for event in refused] == [
        (f"r{number}", "rate_limit_exceeded", 429) for number in (1, 2)
    ]


async def test_what_went_unserved_counts_once_whichever_report_comes_first() -> None:
    service = LocalService(configuration(None))
    heard = watched(service)
    told = [Report("i", number, unserved=counts) for number, counts in enumerate(({"a": 1}, {"a": 3, "b": 1}), 1)]

    for report in (told[0], told[1], told[1], told[0], replace(told[1], number=3, unserved={"a": 4, "b": 1})):
        await service.router.exchange(report, False)
    await service.close()

    counted = [dict(event.counts) for event in heard if isinstance(event, EndedUnserved)]
    assert counted == [{"a": 1}, {"a": 2, "b": 1}, {"a": 1}]


async def test_what_an_ingress_has_told_another_router_does_not_count_again() -> None:
    service = LocalService(configuration(None))
    heard = watched(service)

    await service.router.exchange(Report("i", 7, unserved={"a": 5}), False)
    await service.router.exchange(Report("i", 8, unserved={"a": 6}), False)
    await service.close()

    assert [dict(event.counts) for event in heard if isinstance(event, EndedUnserved)] == [{"a": 1}]


async def test_what_a_lost_ingress_had_in_flight_has_an_end() -> None:
    service = LocalService(configuration(None))
    heard = watched(service)
    await service.announce()
    await service.plan(RouteItem("r", max_tokens=10))

    exchanges = service.router._exchanges
    exchanges._end(next(iter(exchanges._sessions.values())), [Done("r", None, Ending.given_up)], [])
    await service.idle_state()
    await service.close()

    (end,) = [event for event in heard if isinstance(event, RequestEnded)]
    assert (end.ending, end.course, end.cost_told) == (Ending.given_up, None, False)
