"""What a process of devtools/forking.py begins with: it becomes the one that `python script arguments` would be."""

import atexit
import os
import runpy
import signal
import sys
import threading

JOB: dict = globals()["JOB"]  # given by the one that forks


def is_installed(path: str) -> bool:
    """Whether it is Python's own or has packages; the test's other folders would hide ComfyUI's modules."""
    return path.startswith((sys.base_prefix, sys.prefix))


os.environ.clear()
os.environ.update(JOB["environment"])
os.chdir(JOB["folder"])
with open(JOB["output"], "ab") as output:
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
sys.stdout.reconfigure(line_buffering=True)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = [JOB["script"], *JOB["arguments"]]
sys.path = [os.path.dirname(os.path.abspath(JOB["script"])), *filter(is_installed, sys.path)]
try:
    runpy.run_path(JOB["script"], run_name="__main__")
finally:  # as Python ends, and multiprocessing does not
    threading._shutdown()
    atexit._run_exitfuncs()
