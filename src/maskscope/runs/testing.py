"""The tests of a run, one after another: each is on disk as soon as it is done, and told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maskscope.analysis.evaluate import Score
from maskscope.runs.loop import Report, Tick

_EVERY = 0.1
"""Seconds between signs of life."""


@dataclass
class Tests:
    """Scores by key. What a stopped process had tested is not tested again.

    Args:
        path: A file of lines, of which the last may be cut short. None: nothing is kept.
        of: Digest of what is tested; lines of another are dropped.
        task: For progress.
        report: Where progress goes.

    Examples:
        >>> tests = Tests()
        >>> tests.scores("full network", lambda: [Score(0.5, 10)])
        (Score(value=0.5, examples=10),)
        >>> tests.scores("full network", lambda: [])
        (Score(value=0.5, examples=10),)
    """

    path: Path | None = None
    of: str = ""
    task: str = ""
    report: Report | None = None
    total: int = 0
    """How many there are to be, for progress."""
    _known: dict[str, tuple[Score, ...]] = field(default_factory=dict[str, tuple[Score, ...]])
    _done: int = 0
    _told: float = -1.0

    def __post_init__(self) -> None:
        """Read what is there, and drop what is of other masks."""
        if self.path is None:
            return
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        whole: list[str] = []
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # cut short
                continue
            if record["of"] == self.of:
                self._known[record["key"]] = tuple(Score(*score) for score in record["scores"])
                whole.append(line)
        if whole != lines:
            self.path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")

    def scores(self, key: str, work: Callable[[], Sequence[Score]]) -> tuple[Score, ...]:
        """The scores of a test, done now if they are not known."""
        if key not in self._known:
            self._tell()
            self._known[key] = tuple(work())
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"of": self.of, "key": key, "scores": self._known[key]}) + "\n")
        self._done += 1
        return self._known[key]

    def drop(self) -> None:
        """The results are on disk; what led to them is not needed any more."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _tell(self) -> None:
        now = time.monotonic()
        if self.report is not None and now - self._told >= _EVERY:
            self.report(Tick(self.task, "testing", self._done, max(self.total, self._done + 1)))
            self._told = now
