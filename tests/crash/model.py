"""What may be true of an app or a secret, after what was asked and what was answered.

An operation that was acknowledged happened. One whose caller or platform died on the way happened or
did not, and nothing else: it leaves two possibilities, until the next look settles which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class State:
    """One possibility. `word` is what a request to the app answers while it is active."""

    exists: bool = False
    active: bool = False
    word: str = ""
    # The only revision it ever had did not come up, because its process was killed.
    failed: bool = False


ABSENT = State()

Effect = Callable[[State], State]


def serves(word: str) -> Effect:
    return lambda state: State(exists=True, active=True, word=word)


def is_active(active: bool) -> Effect:
    return lambda state: replace(state, active=active) if state.exists else state


def is_gone(state: State) -> State:
    return ABSENT


@dataclass
class Belief:
    """Everything that may be true of one thing."""

    name: str
    possible: set[State] = field(default_factory=lambda: {ABSENT})
    # Where it answers, for as long as it exists.
    endpoint: str = ""

    def happened(self, effect: Effect) -> None:
        self.possible = {effect(state) for state in self.possible}

    def may_have_happened(self, effect: Effect) -> None:
        self.possible |= {effect(state) for state in self.possible}

    def may_have_failed(self) -> None:
        """A replica was killed before it served; an app without an earlier one has nothing to fall back on."""
        self.possible |= {replace(state, failed=True) for state in self.possible if state.active}

    def settled(self, state: State) -> None:
        self.possible = {state}
        if not state.exists:
            self.endpoint = ""

    @property
    def is_certain(self) -> bool:
        return len(self.possible) == 1
