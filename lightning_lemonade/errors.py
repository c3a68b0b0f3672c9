"""The errors of this package: one root, one subclass per cause.

Every message says what was given, what is wrong and what to do about it.
"""


class LemonadeError(Exception):
    """Root of every error that this package raises on purpose."""


class ConfigurationError(LemonadeError):
    """An argument, a configuration file or a combination of them can't be used."""


class SpecError(LemonadeError):
    """A graph spec is malformed. The message names the node and the reason."""


class MutationError(LemonadeError):
    """A mutation can't be applied at the site it was given, or is malformed."""


class ObjectiveError(LemonadeError):
    """An objective is unknown, or gave a value that is no number."""


class DataError(LemonadeError):
    """A data module doesn't yield what a search needs."""


class EvaluationError(LemonadeError):
    """A candidate could not be evaluated (for instance: its loss is not a number).

    Args:
        text: one line for a person.
        kind: of its failure; see `evaluation.failures.FailureKind`.
    """

    def __init__(self, text: str, kind: str = "not_a_number") -> None:
        super().__init__(text)
        self.kind = kind


class HistoryError(LemonadeError):
    """A run directory is missing, foreign, damaged, or in use."""


class SearchError(LemonadeError):
    """A search can't start or can't go on."""
