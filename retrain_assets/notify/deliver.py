"""Delivery of what waits in the outbox: at least once, and not again to a channel that has it.

Holds one delivery round; does not hold texts (`messages.py`), channels (`channels.py`) or the outbox's SQL
(`store/outbox.py`). Messages are claimed in one transaction, sent in none, and each channel's receipt is noted in a
transaction of its own as it comes, under `delivered_to` in the message's payload. So a retry goes only to the
channels that do not have it, and only a process that dies between a channel's answer and its note sends twice.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import update

from retrain_assets.notify.channels import Channel
from retrain_assets.notify.messages import Message, compose
from retrain_assets.store import outbox
from retrain_assets.store.database import Database
from retrain_assets.store.outbox import Pending
from retrain_assets.store.tables import notification_outbox

ROUND = 50
"""Messages of one round."""
SEND_BUDGET_S = 45.0
"""How long a round waits for its channels: well within the claim of `store.outbox.CLAIM` (two minutes)."""
DELIVERED_TO = "delivered_to"
"""Key of the payload that lists the ids of channels that have the message."""


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What one round did.

    Attributes
    ----------
    delivered : int
        Messages that every channel now has.
    failed : int
        Messages that a channel did not take; they are tried again later.
    errors : tuple of str
        Why, once for each channel.
    """

    delivered: int = 0
    failed: int = 0
    errors: tuple[str, ...] = ()


@dataclass(slots=True)
class _Parcel:
    """A claimed message on its way."""

    pending: Pending
    message: Message
    has: set[str]
    waits_for: set[str]
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Receipt:
    """What a channel answered; `error` is None when it took the message."""

    parcel: _Parcel
    channel: Channel
    error: str | None


def deliver_pending(
    database: Database, channels: Sequence[Channel], problem: str, now: datetime, *, budget_s: float = SEND_BUDGET_S
) -> DeliveryReport:
    """Send the messages that are due.

    Channels work side by side, each through its messages in order. One that fails gets no further message in this
    round, and one that does not answer is left behind when the time is over; neither keeps the others waiting.

    Parameters
    ----------
    database : Database
    channels : sequence of Channel
        Usually `Channels(config.notifications.urls)`.
    problem : str
        Name of the problem, for the titles.
    now : datetime
        Aware; decides what is due, and dates the notes.
    budget_s : float
        Seconds for all sending of this round.

    Raises
    ------
    StoreUnavailable
        The database is away; what was claimed is due again once the claim has run out.
    """
    with database.write() as connection:
        claimed = outbox.claim(connection, now, ROUND)
    if not claimed:
        return DeliveryReport()
    parcels = [_parcel(pending, channels, problem) for pending in claimed]
    for receipt in _send_all(parcels, channels, budget_s):
        _note(database, receipt)
    return _settle(database, parcels, now)


def _parcel(pending: Pending, channels: Sequence[Channel], problem: str) -> _Parcel:
    has = set(pending.payload.get(DELIVERED_TO, ()))
    message = compose(pending.event, pending.payload, problem)
    return _Parcel(pending, message, has, {channel.id for channel in channels} - has)


def _send_all(parcels: Sequence[_Parcel], channels: Sequence[Channel], budget_s: float) -> Iterable[_Receipt]:
    """Receipts as they come, until all are in or the time is over."""
    until = time.monotonic() + budget_s
    receipts: queue.SimpleQueue[_Receipt] = queue.SimpleQueue()
    left = 0
    for channel in channels:
        mine = [parcel for parcel in parcels if channel.id in parcel.waits_for]
        left += len(mine)
        if mine:
            # A daemon, because a channel that never answers must not keep the process from ending.
            arguments = (channel, mine, receipts, until)
            threading.Thread(target=_send, args=arguments, name=f"retrain-notify-{channel.id}", daemon=True).start()
    while left:
        try:
            receipt = receipts.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            return
        left -= 1
        yield receipt


def _send(channel: Channel, parcels: Sequence[_Parcel], receipts: queue.SimpleQueue[_Receipt], until: float) -> None:
    """One channel's messages in order; after a failure, or when the time is over, the rest is left for later."""
    error: str | None = None
    for parcel in parcels:
        if error is None and time.monotonic() >= until:
            error = f"{channel.name} had no time left in this round"
        if error is None:
            try:
                channel.send(parcel.message)
            except Exception as failure:  # noqa: BLE001  (a channel's bug is that channel's failure)
                error = str(failure) or type(failure).__name__
        receipts.put(_Receipt(parcel, channel, error))


def _note(database: Database, receipt: _Receipt) -> None:
    """Keep what a channel answered; a success at once, so that a crash cannot send it again."""
    parcel = receipt.parcel
    parcel.waits_for.discard(receipt.channel.id)
    if receipt.error is not None:
        parcel.errors[receipt.channel.name] = receipt.error
        return
    parcel.has.add(receipt.channel.id)
    payload = {**parcel.pending.payload, DELIVERED_TO: sorted(parcel.has)}
    table = notification_outbox
    with database.write() as connection:
        connection.execute(update(table).where(table.c.id == parcel.pending.id).values(payload=payload))


def _settle(database: Database, parcels: Sequence[_Parcel], now: datetime) -> DeliveryReport:
    """Close what every channel has, and put off what one of them has not."""
    delivered, errors = 0, {}
    with database.write() as connection:
        for parcel in parcels:
            if not parcel.waits_for and not parcel.errors:
                outbox.delivered(connection, parcel.pending, now)
                delivered += 1
                continue
            missing = parcel.errors or dict.fromkeys(sorted(parcel.waits_for), "did not answer in time")
            errors.update(missing)
            outbox.failed(connection, parcel.pending, now, "; ".join(missing.values()))
    return DeliveryReport(delivered, len(parcels) - delivered, tuple(errors.values()))
