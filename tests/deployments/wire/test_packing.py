from dataclasses import dataclass

import numpy as np

from apportion.deployments.wire.packing import pack, unpack
from apportion.router.batch.messages import BatchInfo, Decision, Done, Ending, Held, Refusal, Reply, Report, RouteItem
from apportion.router.budget import Account
from apportion.router.errors import BudgetExceededError

BATCH = BatchInfo(1, 1, 0.0, 0.0, 0.0, 0.0, 0.0, ("slots",))


@dataclass(slots=True)
class Lone:
    """One field."""

    value: object


class Begun:
    """What pickle itself knows how to take apart."""

    def __init__(self, value: int) -> None:
        self.value = value


def report() -> Report:
    items = tuple(RouteItem(f"r{i}", account=Account("key")) for i in range(3))
    held = (Held("h", "small", "replica", 2, 1e-6),)
    return Report("ingress", 7, items, (Done("d", 1e-6, Ending.late),), ("c",), held, ("w",))


def test_reports_and_replies_come_back_as_they_were() -> None:
    assert unpack(pack(report())) == report()
    decision = Decision("r", "small", None, 1e-6, 0.0, "mip", "mip", BATCH, token="secret")
    reply = unpack(pack(Reply("router", (decision, Refusal("x", BudgetExceededError("too dear", retry_after_s=3))))))
    assert reply.verdicts[0] == decision
    assert reply.verdicts[1].error.retry_after_s == 3


def test_other_values_are_packed_as_pickle_has_them() -> None:
    lone, begun, array, kind = unpack(pack([Lone(None), Begun(3), np.arange(4), Lone]))
    assert (lone, begun.value, kind) == (Lone(None), 3, Lone)
    assert array.tolist() == [0, 1, 2, 3]


def test_what_comes_twice_is_packed_once() -> None:
    first, second = unpack(pack((BATCH, BATCH)))
    assert first is second
