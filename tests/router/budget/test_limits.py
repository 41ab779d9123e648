import pickle
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.router.budget import Account, Limit, LimitIndex, Scope, Shortage, Window
from apportion.router.errors import BudgetExceededError, BudgetExhaustedError, ConfigurationError

NOW_S = datetime(2026, 12, 31, 23, 59, 30, tzinfo=UTC).timestamp()
NEW_YEAR_S = datetime(2027, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("window", "starts"),
    [
        (Window.minute, datetime(2026, 12, 31, 23, 59, tzinfo=UTC)),
        (Window.day, datetime(2026, 12, 31, tzinfo=UTC)),
        (Window.month, datetime(2026, 12, 1, tzinfo=UTC)),
    ],
)
def test_windows_are_calendar_ones_in_utc(window: Window, starts: datetime) -> None:
    assert window.bounds(NOW_S) == (starts.timestamp(), NEW_YEAR_S)
    assert window.bounds(NEW_YEAR_S)[0] == NEW_YEAR_S
    assert window.bounds(starts.timestamp()) == window.bounds(NOW_S)


def test_total_has_no_bounds() -> None:
    assert Window.total.bounds(NOW_S) == (float("-inf"), float("inf"))


def test_a_limit_without_a_name_holds_for_each() -> None:
    each = Limit(Scope.tenant, Window.day, 5)
    one = Limit(Scope.tenant, Window.day, 5, "acme")
    assert each.holds_for("acme")
    assert each.holds_for("other")
    assert one.holds_for("acme")
    assert not one.holds_for("other")


def test_an_account_names_its_scopes() -> None:
    account = Account("k", None)
    assert [account.name(scope, "m") for scope in Scope] == ["", "k", "unnamed", "m", ""]
    assert Account().name(Scope.key, "m") == "unnamed", "nobody is without limits for want of a name"


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="zero or more"):
        Limit(Scope.service, Window.day, -1)
    with pytest.raises(ConfigurationError, match="a limit of the whole service has none"):
        Limit(Scope.service, Window.day, 1, "acme")


def test_a_shortage_tells_the_limit_and_when_there_is_money_again() -> None:
    limit = Limit(Scope.tenant, Window.day, 2_000_000_000)
    error = Shortage(limit, "acme", 500_000_000, 600_000_000, NEW_YEAR_S, False).error(NOW_S)
    assert isinstance(error, BudgetExhaustedError)
    assert (error.status, error.retry_after_s) == (429, 30.0)
    for part in ("2.00 USD a day", "tenant 'acme'", "0.50 USD left", "0.60 USD", "2027-01-01T00:00:00Z"):
        assert part in error.message
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.retry_after_s) == (BudgetExhaustedError, 30.0)


def test_where_waiting_does_not_help_the_answer_is_402() -> None:
    error = Shortage(Limit(Scope.service, Window.total, 5), "", 0, 6, None, False).error(NOW_S)
    assert (type(error), error.status, error.retry_after_s) == (BudgetExceededError, 402, None)
    assert "the whole service" in error.message


@pytest.mark.parametrize(
    ("scope", "name"), [(Scope.service, ""), (Scope.model, "heron"), (Scope.tenant, "unnamed"), (Scope.key, "unnamed")]
)
def test_balances_are_told_to_their_owner_only(scope: Scope, name: str) -> None:
    limit = Limit(scope, Window.day, 2_000_000_000)
    message = Shortage(limit, name, 500_000_000, 600_000_000, NEW_YEAR_S, False).error(NOW_S).message
    assert "2.00" not in message
    assert "0.50" not in message
    assert "there is money again at 2027-01-01T00:00:00Z" in message


NAMES = st.sampled_from(["a", "b", "c"])
LIMITS = st.builds(
    lambda scope, window, nano, name: Limit(scope, window, nano, None if scope is Scope.service else name),
    st.sampled_from(Scope),
    st.sampled_from(Window),
    st.integers(0, 5),
    st.none() | NAMES,
)


@given(st.lists(LIMITS), st.sampled_from(Scope), NAMES)
def test_the_index_finds_the_limits_that_hold(limits: list[Limit], scope: Scope, name: str) -> None:
    found = LimitIndex(limits).of(scope, name)
    assert sorted(found, key=repr) == sorted(
        (limit for limit in limits if limit.scope is scope and limit.holds_for(name)), key=repr
    )


def test_counters_are_looked_up_once_a_window() -> None:
    index = LimitIndex([Limit(Scope.key, Window.minute, 5)])
    one = index.bindings(NOW_S).of_account(Account("a"))
    assert index.bindings(NOW_S + 29).of_account(Account("a")) is one
    assert [key.starts_s for key, _ in index.bindings(NEW_YEAR_S).of_account(Account("a"))][1:] == [NEW_YEAR_S]
