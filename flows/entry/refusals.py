"""What the log says of a run that was refused: one line with what to do, and not the way there through Prefect's code.

Prefect writes a traceback when a task fails, when each flow around it does, and when its engine ends. Of our own
errors the flow's line is kept, without the traceback, and what says that a step is tried again; of any other error the
first traceback.
"""

import logging

_OF_TASKS = "prefect.task_runs"
_LOGGERS = ("prefect.flow_runs", _OF_TASKS, "prefect.engine")
_SAID_BEFORE = ("Finished in state Failed", "Engine execution exited", "exited with unexpected exception")
_TRIED_AGAIN = "Retry "
_SAID = "_has_been_logged"  # attribute of an error; where no flow could begin, the engine's line is the only one


class _OneLine(logging.Filter):
    """Keeps of what Prefect says about a failure what was not said before."""

    def __init__(self, further: tuple[str, ...]) -> None:
        super().__init__()
        self._dropped = (*_SAID_BEFORE, *further)

    def filter(self, record: logging.LogRecord) -> bool:
        message, error = record.getMessage(), record.exc_info[1] if record.exc_info else None
        if any(words in message for words in self._dropped) and (error is None or hasattr(error, _SAID)):
            return False
        if error is None:
            return True
        if _is_ours(error):
            record.exc_info = None
            if record.name == _OF_TASKS:  # the flow around it says what is wrong
                return _TRIED_AGAIN in message
            record.msg, record.args = f"{type(error).__name__}: {error}", ()
        setattr(error, _SAID, True)
        return True


def _is_ours(error: BaseException) -> bool:
    from storage.schema import PipelineError  # here: it is needed where something fails, and every process starts here

    return isinstance(error, PipelineError)


def shorten_refusals(*further: str) -> None:
    """Have Prefect's loggers in this process say a failure once, and one of our own errors in a line.

    A later call takes the place of an earlier one: two in a row would each take the other's line for a repetition.
    Lines with the `further` words are left out as well.
    """
    for logger in map(logging.getLogger, _LOGGERS):
        logger.filters[:] = (one for one in logger.filters if not isinstance(one, _OneLine))
        logger.addFilter(_OneLine(further))
