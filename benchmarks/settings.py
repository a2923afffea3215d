"""What a run was asked for: threads, rounds, and whether it is only a rehearsal on tiny shapes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Threads of torch and of ours; rounds of each table; ``quick``: everything once, tiny, figures worthless."""

    threads: int = 2
    rounds: int = 15
    quick: bool = False

    def size(self, full: int, quick: int = 32) -> int:
        """A side, a number of images or of pixels: as wished, or tiny."""
        return min(full, quick) if self.quick else full

    @property
    def slow_rounds(self) -> int:
        """Rounds of what takes seconds a call."""
        return 1 if self.quick else max(1, self.rounds // 5)

    @property
    def table_seconds(self) -> float:
        """No new round of a table starts after this many seconds."""
        return 30.0
