"""SearchProgressBar: how far a search is, as a bar in a terminal and as one line per generation elsewhere."""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from lightning_lemonade.callback import SearchCallback, SearchInfo
from lightning_lemonade.records import CandidateRecord, GenerationRecord, ObjectiveRecord


class SearchProgressBar(SearchCallback):
    """Shows generation, children, best error, size of the front and hypervolume; every failed child gets a line with its reason.

    The bar is redrawn by the search's events, not by a thread of its own: loader workers are forked while it stands, and a lock that a
    thread holds at that moment would never be released in them.

    Args:
        console: where to print; standard output by default. It gets a bar if it is a terminal, and plain lines if it isn't.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._accepted = self._finished = 0
        self._news: list[str] = []

    def on_search_start(self, search: SearchInfo) -> None:
        """Shows the bar."""
        self._show(search, completed=0)

    def on_search_resume(self, search: SearchInfo) -> None:
        """Shows the bar where the search was interrupted."""
        finished = search.history.generations()
        self._show(search, completed=finished[-1].generation if finished else 0)
        if finished:
            self._news = _news(search, finished[-1])
            self._line(f"resumed after generation {finished[-1].generation}: {', '.join(self._news)}", bar_too=True)

    def on_search_end(self, search: SearchInfo) -> None:
        """Leaves the bar as it is."""
        self._stop()

    def on_search_exception(self, search: SearchInfo, exception: BaseException) -> None:
        """Leaves the bar as it is, so that the error is printed below it."""
        self._stop()

    def on_generation_start(self, search: SearchInfo, generation: int) -> None:
        """Counts the children anew."""
        self._accepted = self._finished = 0
        self._draw(search, generation)

    def on_candidate_accepted(self, search: SearchInfo, candidate: CandidateRecord) -> None:
        """Counts one more child to come."""
        self._accepted += 1
        self._draw(search, candidate.generation)

    def on_candidate_end(self, search: SearchInfo, candidate: CandidateRecord) -> None:
        """Counts one more child."""
        self._finished += 1
        self._draw(search, candidate.generation)

    def on_candidate_failed(self, search: SearchInfo, candidate: CandidateRecord) -> None:
        """Tells why the child failed."""
        self._finished += 1
        reason = f" ({candidate.failure.kind}): {candidate.failure.text}" if candidate.failure else ""
        self._line(f"child {candidate.id} failed{reason}", bar_too=True)
        self._draw(search, candidate.generation)

    def on_generation_end(self, search: SearchInfo, record: GenerationRecord) -> None:
        """Tells what the generation brought."""
        self._news = _news(search, record)
        failed = f" ({record.failed} failed)" if record.failed else ""
        seconds = _duration(sum(record.seconds.values()))
        self._line(f"generation {record.generation}: {_children(record)}{failed}, {', '.join(self._news)}, {seconds}")
        self._draw(search, record.generation, completed=record.generation)

    def _show(self, search: SearchInfo, completed: int) -> None:
        """Starts the bar, if the console is a terminal that can move its cursor."""
        self._accepted = self._finished = 0
        self._news = []
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        bar = BarColumn(bar_width=10, table_column=Column(no_wrap=True))
        text = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1))
        self._progress = Progress(bar, text, console=self._console, auto_refresh=False, expand=True)
        self._task = self._progress.add_task("starting", total=search.max_generations, completed=completed)
        self._progress.start()

    def _draw(self, search: SearchInfo, generation: int, completed: int | None = None) -> None:
        """Redraws the bar, if there is one."""
        if self._progress is None:
            return
        last = "" if search.max_generations is None else f"/{search.max_generations}"
        child = f"child {self._finished}/{max(self._accepted, self._finished)}"
        text = " · ".join([f"generation {generation}{last}", child, *self._news])
        self._progress.update(self._task, description=text, completed=completed, refresh=True)

    def _line(self, text: str, *, bar_too: bool = False) -> None:
        """Prints a line where there is no bar, or above the bar if `bar_too`."""
        if self._progress is None or bar_too:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _stop(self) -> None:
        """Lets go of the terminal."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _news(search: SearchInfo, record: GenerationRecord) -> list[str]:
    """Returns what a generation's end says of the population: its size, its best error, its hypervolume."""
    news = [f"front {len(record.front)}"]
    objective = _leading(search.objectives)
    values = [search.history.candidate(member).objectives for member in record.front]
    best = min((each[objective.key] for each in values if objective.key in each), default=None)
    if best is not None:
        shown = f"{100 * best:.3g} %" if objective.name == "error" else f"{best:.4g} {objective.unit}"
        news.append(f"best {objective.key} {shown}")
    return [*news, f"hypervolume {record.hypervolume:.3f}"]


def _leading(objectives: Sequence[ObjectiveRecord]) -> ObjectiveRecord:
    """Returns the objective to show: an error; else the first that needs training; else the first."""
    return min(objectives, key=lambda objective: (objective.name != "error", objective.stage != "trained"))


def _children(record: GenerationRecord) -> str:
    """Returns for instance `8 children`."""
    one, many = ("starting network", "starting networks") if record.generation == 0 else ("child", "children")
    return f"{record.accepted} {one if record.accepted == 1 else many}"


def _duration(seconds: float) -> str:
    """Returns for instance `34 s`, `2 min 5 s` or `3 h 12 min`.

    >>> _duration(0.25), _duration(34.2), _duration(125), _duration(11520)
    ('0.2 s', '34 s', '2 min 5 s', '3 h 12 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
