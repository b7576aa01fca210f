"""Write requests that are safe to retry: one key per user action, a durable journal, and never a success without proof.

    with Client("orders.journal", secret_headers={"x-api-key": KEY}) as client:
        outcome = client.send(Intent.post(URL, preset="yonne", operation="order-WEB-100245", json=order))

The key is minted when the `Intent` is made; attempts only read it. What crosses a crash is in the journal, and
`Client.resume` goes on with the same key and the same bytes. What the answers of an API mean is data: see `judge`.
"""

from .client import AsyncClient, Client
from .errors import (
    AnotherKey,
    Edited,
    IntentError,
    JournalBroken,
    JournalDamaged,
    JournalError,
    JournalLocked,
    KeyRefused,
    KeyTaken,
    NoSuchOperation,
    OtherCredentials,
    SemelError,
    SendError,
)
from .exchange import Reply
from .intent import Intent, Key
from .journal import Journal, Known
from .outcome import AlreadyExists, Fresh, Outcome, Rejected, Replayed, Unresolved
from .surroundings import Surroundings
from .table import Preset
from .transport import LimitedTransport

__all__ = [
    "AlreadyExists",
    "AnotherKey",
    "AsyncClient",
    "Client",
    "Edited",
    "Fresh",
    "Intent",
    "IntentError",
    "Journal",
    "JournalBroken",
    "JournalDamaged",
    "JournalError",
    "JournalLocked",
    "Key",
    "KeyRefused",
    "KeyTaken",
    "Known",
    "LimitedTransport",
    "NoSuchOperation",
    "OtherCredentials",
    "Outcome",
    "Preset",
    "Rejected",
    "Replayed",
    "Reply",
    "SemelError",
    "SendError",
    "Surroundings",
    "Unresolved",
]
