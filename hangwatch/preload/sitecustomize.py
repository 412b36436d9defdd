"""Python imports this at start-up when `hangwatch run` has put its folder on PYTHONPATH: the agent comes in before the service's first line.

It is imported by every Python that the command starts, by its forked and spawned children too. The agent starts no thread before an event
loop runs, so a process without one (gunicorn's master, pip, a shell's helper) is left as it was.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def _install() -> None:
    try:
        from hangwatch import agent
    except ImportError:
        # Another interpreter than the one hangwatch is installed in: its own modules need nothing beside the standard library.
        sys.path.append(os.path.dirname(os.path.dirname(_HERE)))
        try:
            from hangwatch import agent
        finally:
            sys.path.pop()
    agent.install()


def _hand_on() -> None:
    """The sitecustomize that would have been imported without us (Debian's, coverage's) is not to be lost."""
    import importlib.machinery

    places = [place for place in sys.path if os.path.abspath(place or ".") != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", places)
    if spec is None or spec.loader is None:
        return
    import importlib.util

    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") != _HERE]
if (
    sys.version_info >= (3, 10)
    and os.environ.get("HANGWATCH_RUN")
    and os.environ.get("HANGWATCH_DISABLED", "").lower() in ("", "0", "false", "no", "off")
):
    try:
        _install()
    except Exception as error:  # the service starts, whatever is wrong with us
        os.write(2, f"hangwatch: not installed: {type(error).__name__}: {error}; the service runs without it\n".encode())
_hand_on()
