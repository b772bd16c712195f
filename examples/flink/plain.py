"""What the programs must write, computed by plain Python: no streams, no state backend, nothing that fails."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

Pair = tuple[int, int]


def events(count: int) -> list[tuple[int, str, int]]:
    """Events (number, user, amount), as both `Common.java` and `common.py` make them."""
    return [(number, f"user-{number % 53}", number * number % 1009) for number in range(count)]


def averages(pairs: Iterable[Pair]) -> list[str]:
    seen: dict[int, list[int]] = defaultdict(list)
    lines = []
    for key, value in pairs:
        seen[key].append(value)
        if len(seen[key]) >= 2:
            lines.append(f"{key} {sum(seen[key]) // len(seen[key])}")
    return lines


def count_window_average(timed: Iterable[tuple[float, int, int]], ttl: float) -> list[str]:
    """Of pairs with the time in seconds at which each was sent."""
    alone: dict[int, tuple[float, int]] = {}
    lines = []
    for time, key, value in timed:
        since, before = alone.pop(key, (-ttl, 0))
        if time - since < ttl:
            lines.append(f"{key} {(before + value) // 2}")
        else:
            alone[key] = (time, value)
    return lines


def pages_visited(count: int) -> list[str]:
    visits: dict[str, Counter[int]] = defaultdict(Counter)
    lines = []
    for number, user, amount in events(count):
        page = amount % 11
        visits[user][page] += 1
        lines.append(f"{number} {user} page {page} visit {visits[user][page]} of {len(visits[user])} pages")
    return lines


def fives_in_order(count: int) -> list[str]:
    amounts: dict[str, list[int]] = defaultdict(list)
    for _, user, amount in events(count):
        amounts[user].append(amount)
    return [f"{user} {sorted(of[i:i + 5])}" for user, of in amounts.items() for i in range(0, len(of) - 4, 5)]


def totals(count: int) -> list[str]:
    amounts: dict[str, list[int]] = defaultdict(list)
    lines = []
    for number, user, amount in events(count):
        amounts[user].append(amount)
        lines.append(f"{number} {user} total {sum(amounts[user])} largest {max(amounts[user])}")
    return lines


def means(count: int) -> list[str]:
    amounts: dict[str, list[int]] = defaultdict(list)
    lines = []
    for number, user, amount in events(count):
        amounts[user].append(amount)
        lines.append(f"{number} {user} mean {1000 * sum(amounts[user]) // len(amounts[user])}")
    return lines


def buffering_sink(count: int) -> list[str]:
    """Each of them at least once."""
    return [f"{number} {user} {amount}" for number, user, amount in events(count)]


def rules(count: int) -> list[str]:
    return [f"{number} {user} rule-{amount % 7 * 10}" for number, user, amount in events(count)]


def checkpoint_settings(count: int) -> list[str]:
    return [f"{number % 53} {number // 53 + 1}" for number in range(count)]


# Programs whose source can be read again, and what they write of so many events.
ON_EVENTS: dict[str, Callable[[int], list[str]]] = {
    "pages_visited": pages_visited,
    "fives_in_order": fives_in_order,
    "totals": totals,
    "means": means,
    "buffering_sink": buffering_sink,
    "rules": rules,
    "checkpoint_settings": checkpoint_settings,
}
