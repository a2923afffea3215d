"""The one error that the lab raises for bad input; the command line prints it without a traceback."""


class LabError(ValueError):
    """Something the user gave cannot be used. The message names what came, what was expected and the remedy."""
