"""Errors a user can cause or mend; each carries the exit code of the command that meets it.

The text of every error says what is wrong, in which file, why, and what to do next.
`assert` is for our own mistakes.
"""

from zsseg.stages.printable import one_line


class UserError(ValueError):
    """A wrong argument or setting. Each argument is a line of the message.

    Names within may hold anything: what would leave its line, or act on a terminal, is escaped.
    """

    exit_code = 2

    def __str__(self) -> str:
        return "\n".join(map(one_line, self.args))


class NothingToLearnError(UserError):
    """A training none of whose losses has anything to learn from in its data set."""


class DatasetError(UserError):
    """A data set that is not what its description says."""

    exit_code = 4


class CacheError(UserError):
    """A store that is missing, incomplete, damaged, or made with other settings."""

    exit_code = 5


class CacheLocked(CacheError):
    """Another process writes this store or run folder."""

    exit_code = 6


class ResourceError(UserError):
    """Disk, memory, GPU, weights or network that a command needs and does not have."""

    exit_code = 7


class NonFiniteError(UserError):
    """A NaN or infinity in tokens or in a loss."""

    exit_code = 8
