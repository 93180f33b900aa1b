"""What a worker process does first.

It runs as a file of its own, because to import the package takes seconds, in which its caller may end already.

`runpy.run_path` gives it CONNECTION, to the caller, and WORK, which is pickled: what `workers.serve` is to do.
"""

import multiprocessing
import os
import pickle
import signal
import threading


def end_with_caller() -> None:
    """Ends this process, in the middle of whatever it does, once its caller is gone: killed, or out of memory."""
    caller = multiprocessing.parent_process()
    if caller is not None:
        caller.join()
        os._exit(1)


signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal, and the caller ends its own
threading.Thread(target=end_with_caller, daemon=True).start()
GIVEN = globals()
serve, *arguments = pickle.loads(GIVEN["WORK"])  # imports what it names
serve(GIVEN["CONNECTION"], *arguments)
