"""Which spellings of an action mean the same.

Holds the comparison; does not hold where the spellings come from (`core/inference.py`).
"""

from __future__ import annotations

import re
from collections import Counter

LEAST_STEM = 4
"""Letters of an action that another spelling may begin with."""

_VARIANT_ENDINGS = ("s", "ing", "ed", "post", "posts", "posting", "postings", "task", "tasks", "action", "job")
"""What may follow an action's name in another spelling of it: `Forum Post` and `forum`, `guestposting` and `guest`."""


def variants(counts: Counter[str]) -> dict[str, Counter[str]]:
    """Spellings that mean the same, by the name they get, the commonest first.

    Equal but for case and signs, or but for a known ending; the shorter one names them.
    """
    by_letters: dict[str, Counter[str]] = {}
    for text, count in counts.items():
        letters = "".join(re.findall(r"[^\W_]+", text.casefold())) or text
        by_letters.setdefault(letters, Counter())[text] += count
    names = {letters: _name_of(group) for letters, group in by_letters.items()}
    for longer in sorted(by_letters, key=len, reverse=True):
        stems = [longer.removesuffix(ending) for ending in _VARIANT_ENDINGS if longer.endswith(ending)]
        stem = next((stem for stem in sorted(stems, key=len) if len(stem) >= LEAST_STEM and stem in by_letters), None)
        if stem is not None:
            by_letters[stem].update(by_letters.pop(longer))
    ordered = sorted(by_letters.items(), key=lambda item: -sum(item[1].values()))
    return {names[letters]: group for letters, group in ordered}


def _name_of(spellings: Counter[str]) -> str:
    """The commonest spelling, of those without capitals where there is one."""
    quiet = Counter({text: count for text, count in spellings.items() if text == text.lower()})
    return (quiet or spellings).most_common(1)[0][0]
