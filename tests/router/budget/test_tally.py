from apportion.router.budget import Tally


def test_planned_costs_become_what_was_spent() -> None:
    tally = Tally()
    for name, usd in (("a", 0.25), ("b", 0.5), ("c", 1.0)):
        tally.plan(name, usd)
    assert tally.planned_usd == 1.75
    tally.end("a", 0.125)
    tally.end("a", 0.125)
    tally.end("b", None)
    tally.release("c")
    tally.release("c")
    assert (tally.spent_usd, tally.planned_usd) == (0.625, 0)
