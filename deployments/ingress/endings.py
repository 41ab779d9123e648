"""Endings and cancels that the router is to be told, until they are known to be in its ledger."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from apportion.router.batch.messages import Done, Report


@dataclass(frozen=True, slots=True)
class _Sent:
    done: tuple[Done, ...]
    cancelled: tuple[str, ...]
    at_s: float


@dataclass(slots=True)
class Endings:
    """Goes out with one report after another; what is not confirmed goes out again. Told twice does no harm."""

    done: list[Done] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    _sent: dict[int, _Sent] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def news(self) -> bool:
        """Whether there is something that the next report should carry."""
        return bool(self.done or self.cancelled)

    @property
    def unconfirmed(self) -> bool:
        """Whether anything is not known to be in the ledger."""
        return bool(self._sent) or self.news

    def report(self, ingress: str, now_s: float) -> Report:
        """The next report, with all that is to be told."""
        report = Report(ingress, next(self._numbers), done=tuple(self.done), cancelled=tuple(self.cancelled))
        if self.news:
            self._sent[report.number] = _Sent(report.done, report.cancelled, now_s)
            self.done, self.cancelled = [], []
        return report

    def confirm(self, numbers: tuple[int, ...]) -> None:
        """What these reports carried is in the ledger."""
        for number in numbers:
            self._sent.pop(number, None)

    def again(self, sent_before_s: float) -> None:
        """What was told earlier than that and is not confirmed goes with the next report."""
        late = [number for number, sent in self._sent.items() if sent.at_s < sent_before_s]
        for number in reversed(late):
            sent = self._sent.pop(number)
            self.done[:0] = sent.done
            self.cancelled[:0] = sent.cancelled
