"""What a person sees of a run that was started by hand: where it stands, and how long the present stage will take.

On a terminal one live display, a line for each stage; elsewhere a line is written when a stage begins and finished
when it ends, one for each step of what a stage is made of, and one a minute from a step that says nothing else. Where
nobody shows a run, as under a worker, Prefect's log and UI say it alone.

What is known of the run under way is here: whoever works says where it is, and told are this display, the bar on the
run's page (`overall.py`) and the meter of what it costs (`cost.py`).
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO
from uuid import UUID

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tasks.runs.cost import METER
from tasks.runs.overall import OverallProgress, root_run
from tasks.runs.overall import ProgressBar as PageBar

_WIDEST_BAR = 20  # columns; on a narrow terminal it leaves room for what the stage does
_SILENT_S = 60.0  # after which a stage that goes on says how far it is, where there is no live display
_KNOWN_FROM = 0.02  # of a stage; before that, how long the rest takes is a guess


class _Console(Console):
    """Leaves the cursor alone: whoever is killed can't show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class RunDisplay:
    """The stages of one run, shown on `out`: a terminal, or anything else that takes lines."""

    def __init__(self, out: TextIO) -> None:
        self._console = _Console(file=out, highlight=False)
        self._is_terminal = out.isatty() and not self._console.is_dumb_terminal
        self._plan: tuple[str, ...] = ()
        self._closed = self._is_open = False
        self._at = -1
        self._began = 0.0
        self._took: list[tuple[float, int]] = []  # seconds, and parts that were found
        self._found = 0
        self._spoke = 0.0  # when the last line was written
        self._part, self._parts, self._what = 0, 1, ""
        self._within, self._share, self._note = "", 0.0, ""
        self._live = Live(console=self._console, get_renderable=self._stages, vertical_overflow="crop")
        if self._is_terminal:
            self._live.start()

    def plan(self, stages: Sequence[str]) -> None:
        """Name every stage, in order; a flow inside another one has no say."""
        self._plan = self._plan or tuple(stages)

    def stage(self, name: str, part: int, parts: int, what: str) -> None:
        """Show that a stage begins, or a part of it; one that was not planned is what the present one does."""
        if name not in self._plan:
            self._within, self._note = f"{name} {part + 1} of {parts}" if parts > 1 else name, ""
            if part == 0:
                self._line_within(name)
            return
        at = self._plan.index(name)
        if at != self._at:
            self.end_stage()
            self._at, self._began, self._what = at, time.monotonic(), ""
            self._open_line()
        elif parts == 1:  # inside it already
            return
        self._part, self._parts, self._what = part, parts, what or self._what
        self._within, self._share, self._note = "", 0.0, ""

    def advance(self, share: float, note: str) -> None:
        """Show how much of the present part is done, 0 to 1, and what it does."""
        self._share, self._note = 0.0 if self._within else share, note
        if self._at >= 0 and time.monotonic() - self._spoke > _SILENT_S:
            _, left, doing = self._present()
            self._line_within(f"{left}, {doing}" if doing else left)

    def doing(self, what: str) -> None:
        """Show what the present part is of."""
        self._what = what

    def found(self) -> None:
        """Count a part of the present stage that was made before."""
        self._found += 1

    def say(self, line: str) -> None:
        """Write a line that stays."""
        self._console.print(f"\n{line}" if self._is_open else line, soft_wrap=True, markup=False)
        self._is_open = False

    def close(self, *, done: bool) -> None:
        """Leave what was shown as it is; `done` is whether the run came to its end."""
        self._closed = True
        if done:
            self.end_stage()
        elif self._is_open:
            self._console.print("stopped")
        self._live.stop()

    def end_stage(self) -> None:
        """Show that the present stage is over."""
        if self._at < 0:
            return
        self._took.append((time.monotonic() - self._began, self._found))
        if not self._is_terminal:
            if not self._is_open:
                self._open_line()
            self._console.print(", ".join(filter(None, (duration(self._took[-1][0]), _found_text(self._found)))))
        self._at, self._is_open, self._found = -1, False, 0

    def _open_line(self) -> None:
        if not self._is_terminal:
            self._console.print(f"{self._numbered(self._at)} ... ", end="")
            self._is_open, self._spoke = True, time.monotonic()

    def _line_within(self, what: str) -> None:
        """Write what the present stage does, where no live display shows it."""
        if not self._is_terminal and self._at >= 0:
            self.say(f"  {self._what}: {what}" if self._what and self._what not in what else f"  {what}")
            self._spoke = time.monotonic()

    @property
    def _bar(self) -> int:
        return min(self._console.width // 7, _WIDEST_BAR)

    def _numbered(self, at: int) -> str:
        return f"{at + 1}/{len(self._plan)} {self._plan[at]}"

    def _stages(self) -> Group:
        """Return the display as it is now: what is done with its time, the present stage, what comes."""
        if not self._plan:
            return Group(*[] if self._closed else ["starting"])
        rows = Table.grid(padding=(0, 2))
        rows.add_column(no_wrap=True)
        rows.add_column(width=self._bar)
        rows.add_column(justify="right", no_wrap=True, min_width=len("1 min 02 s left"))  # so that nothing moves
        rows.add_column(no_wrap=True, overflow="ellipsis")
        for index in range(len(self._plan)):
            name = self._numbered(index)
            if index == self._at:
                rows.add_row(Text(name, "bold"), *self._present())
            elif index < len(self._took):
                took, parts = self._took[index]
                rows.add_row(name, ProgressBar(1.0, 1.0, width=self._bar), duration(took), _found_text(parts))
            else:
                rows.add_row(Text(name, "dim"), "", "", "")
        return Group(rows)

    def _present(self) -> tuple[ProgressBar, str, str]:
        share = min((self._part + self._share) / max(self._parts, 1), 1.0)
        spent = time.monotonic() - self._began
        left = f"{duration(spent / share - spent)} left" if share > _KNOWN_FROM else duration(spent)
        part = f"{min(self._part + 1, self._parts)} of {self._parts}" if self._parts > 1 else ""
        note = ", ".join(filter(None, (self._what or part, self._within, self._note)))
        return ProgressBar(1.0, share, width=self._bar), left, note


def _found_text(found: int) -> str:
    return f"{found} part{'s' * (found != 1)} made before from the same bars" if found else ""


_shown: RunDisplay | None = None
_overall: OverallProgress | None = None
_of: UUID | None = None  # the run whose page has the bar


@contextmanager
def showing(out: TextIO | None = None) -> Iterator[None]:
    """Show the run inside the block on `out`, standard output by default."""
    global _shown
    display = _shown = RunDisplay(sys.stdout if out is None else out)
    done = False
    try:
        yield
        done = True
    finally:
        _shown = None
        display.close(done=done)


def plan(stages: Sequence[str]) -> None:
    """Name every stage of the run, in order; a flow inside another one has no say."""
    global _of, _overall
    if (run := root_run()) != _of:
        _of, _overall = run, None if run is None else OverallProgress(stages, PageBar(run))
    if _shown is not None:
        _shown.plan(stages)


def stage(name: str, part: int = 0, parts: int = 1, what: str = "") -> None:
    """Say that a stage begins, which ends the one before.

    Args:
        name: As planned; any other name is shown as what the present stage does.
        part: Which part of it, from 0.
        what: What the part is of, where its number says too little.
    """
    METER.stage(name)
    if _overall is not None:
        _overall.stage(name, part, parts)
    if _shown is not None:
        _shown.stage(name, part, parts, what)


def parts_of(name: str, parts: int, what: str = "") -> Iterator[int]:
    """Yield the number of each part of a stage, and say so; `what` they are of, where the stage's name does not."""
    for part in range(parts):
        stage(name, part, parts, f"{what} {part + 1} of {parts}" if what else "")
        yield part


def advance(share: float, note: str = "") -> None:
    """Say how much of the present stage, or part of it, is done, 0 to 1, and what it does."""
    if _overall is not None:
        _overall.advance(share)
    if _shown is not None:
        _shown.advance(share, note)


def doing(what: str) -> None:
    """Say what the present part is of, such as a market."""
    if _shown is not None:
        _shown.doing(what)


def found(step: str) -> None:
    """Say that a part of the present stage was made before, and is not made again."""
    METER.found(step)
    if _shown is not None:
        _shown.found()


def say(line: str) -> None:
    """Write a line that stays on the display."""
    if _shown is not None:
        _shown.say(line)


def end_stage() -> None:
    """Say that the last stage is over, for what the run came to is written next."""
    if _shown is not None:
        _shown.end_stage()


def duration(seconds: float) -> str:
    """Return a time as people say it: 8 s, 1 min 02 s, 2 h 05 min."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
