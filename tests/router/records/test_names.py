"""Names of answers: only their own account's, in whatever form clients tell them, and not for ever."""

from __future__ import annotations

import pytest

from apportion.router.budget import Account
from apportion.router.records.names import AnswerNames, bare_name, base_name

NAMES = AnswerNames(b"s" * 32)
ALICE = Account("alice", "shop")


@pytest.mark.parametrize("form", ["{}", "chatcmpl-{}", "cmpl-{}", "resp_{}", "{}-1", "chatcmpl-{}-2"])
def test_a_name_is_known_in_every_form_that_clients_see(form: str) -> None:
    name = NAMES.new(ALICE, 1000.0)

    assert NAMES.own(form.format(name), ALICE, 1000.0) == name
    assert base_name(f"{name}-2") == name
    assert bare_name(form.format(name)) == name
    assert bare_name(form.format("mine")) == form.format("mine")


@pytest.mark.parametrize(
    "other", [Account("alice"), Account("bob", "shop"), Account(None, "shop"), Account("alic", "eshop"), Account()]
)
def test_nobody_else_owns_it(other: Account) -> None:
    assert NAMES.own(NAMES.new(ALICE, 1000.0), other, 0.0) is None


def test_it_is_forgotten_after_its_time() -> None:
    name = NAMES.new(ALICE, 1000.0)

    assert NAMES.own(name, ALICE, 1000.0) == name
    assert NAMES.own(name, ALICE, 1001.0) is None


def test_no_part_of_it_can_be_changed() -> None:
    name = NAMES.new(ALICE, 1000.0)
    forged = [f"{name[:i]}{'1' if name[i] == '0' else '0'}{name[i + 1 :]}" for i in range(len(name))]

    assert not [one for one in forged if NAMES.own(one, ALICE, 0.0) is not None]


def test_another_store_knows_it_not_and_the_same_one_does_after_a_restart() -> None:
    name = NAMES.new(ALICE, 1000.0)

    assert AnswerNames(b"t" * 32).own(name, ALICE, 0.0) is None
    assert AnswerNames(b"s" * 32).own(name, ALICE, 0.0) == name


@pytest.mark.parametrize("told", ["", "x", "chatcmpl-", "chatcmpl-" + "0" * 40, "0" * 39, "ü" * 40])
def test_what_is_no_name_is_nobodys(told: str) -> None:
    assert NAMES.own(told, ALICE, 0.0) is None


def test_names_do_not_repeat() -> None:
    assert len({NAMES.new(ALICE, 1000.0) for _ in range(1000)}) == 1000


def test_accounts_in_records_differ_and_tell_nothing() -> None:
    told = {NAMES.account(account) for account in (ALICE, Account("alice"), Account("a", "liceshop"), Account())}

    assert len(told) == 4
    assert not any("alice" in one for one in told)
