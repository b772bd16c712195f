"""The blocking face; its public names are those of `dstl`."""

from .backend import Backend
from .client import Client, connect
from .folds import AggregatingState
from .query import Query
from .session import PendingCheckpoint, Receipt, Session
from .states import ListState, MapState, MergingState, Receipts, StoredKey, Timer, TimerState, ValueState

__all__ = [
    "AggregatingState",
    "Backend",
    "Client",
    "ListState",
    "MapState",
    "MergingState",
    "PendingCheckpoint",
    "Query",
    "Receipt",
    "Receipts",
    "Session",
    "StoredKey",
    "Timer",
    "TimerState",
    "ValueState",
    "connect",
]
