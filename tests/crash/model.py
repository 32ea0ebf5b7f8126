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

# What may be true after something was done.
Effect = Callable[[State], set[State]]


def serves(*words: str) -> Effect:
    """It serves one of these."""
    return lambda state: {State(exists=True, active=True, word=word) for word in words}


def is_active(active: bool) -> Effect:
    return lambda state: {replace(state, active=active) if state.exists else state}


def is_gone(state: State) -> set[State]:
    return {ABSENT}


def is_as_it_was(state: State) -> set[State]:
    return {state}


@dataclass
class Belief:
    """Everything that may be true of one thing."""

    name: str
    possible: set[State] = field(default_factory=lambda: {ABSENT})
    # Where it answers, for as long as it exists.
    endpoint: str = ""

    def happened(self, effects: list[Effect]) -> None:
        """All of this was acknowledged; which came last is not known."""
        before = self.possible
        self.possible = {after for effect in effects for state in before for after in effect(state)}

    def may_have_happened(self, effects: list[Effect]) -> None:
        self.possible |= {after for effect in effects for state in self.possible for after in effect(state)}

    def may_have_failed(self) -> None:
        """A replica was killed before it served; an app without an earlier one has nothing to fall back on."""
        self.possible |= {replace(state, failed=True) for state in self.possible if state.active}

    def settled(self, state: State) -> None:
        self.possible = {state}
        if not state.exists:
            self.endpoint = ""
