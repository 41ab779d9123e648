"""Names of answers that say whose they are and when they were given, to those who know the store's secret.

So feedback on an answer needs no list of all answers: neither after a restart, nor at another ingress, nor for days.
What would be kept for each answer in memory (or read back from segments, at a segment a call) is in its name: four
bytes of time, eight of chance, and eight that only the secret's owner can make for this account.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from apportion.router.budget import Account

_NAME = re.compile(r"(?:[a-z]{1,12}[-_])?([0-9a-f]{24})([0-9a-f]{16})(?:-\d{1,3})*")
_TAG_BYTES = 8


class AnswerNames:
    """Makes and checks names.

    Args:
        secret: of the store.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def new(self, account: Account, now_s: float) -> str:
        """The name of an answer to this account, as 40 hexadecimal digits."""
        head = int(now_s).to_bytes(4, "big") + secrets.token_bytes(8)
        return (head + self._tag(head, account)).hex()

    def own(self, told: str, account: Account, since_s: float) -> str | None:
        """The name in what a client calls the answer (`chatcmpl-...`, or a header's value).

        Returns:
            None: it is no name, another account's, or of an answer from before `since_s`.
        """
        found = _NAME.fullmatch(told)
        if found is None:
            return None
        head = bytes.fromhex(found[1])
        if not hmac.compare_digest(self._tag(head, account).hex(), found[2]):
            return None
        return found[1] + found[2] if int.from_bytes(head[:4], "big") >= since_s else None

    def account(self, account: Account) -> str:
        """What an account is called in records: the same name for the same one, which tells nothing of it."""
        return self._hash(b"account", account, 16).hex()

    def _tag(self, head: bytes, account: Account) -> bytes:
        return self._hash(head, account, _TAG_BYTES)

    def _hash(self, head: bytes, account: Account, size: int) -> bytes:
        text = "\0".join("" if part is None else f"={part}" for part in (account.key, account.tenant))
        return hashlib.blake2b(head + b"\0" + text.encode(), key=self._secret, digest_size=size).digest()


def bare_name(told: str) -> str:
    """The name in what a client calls the answer; what holds none stays as it is."""
    found = _NAME.fullmatch(told)
    return told if found is None else found[1] + found[2]


def base_name(request_id: str) -> str:
    """The name that all attempts at a request share."""
    return request_id.partition("-")[0]
