"""Run a script to its last line and end the process there; what it raises is raised.

Under torchrun, where gloo's threads may abort an interpreter that is ending (pytorch#179291), after all that a test
asks of the script. Docs/distributed.md tells users.
"""

import os
import runpy
import sys

if __name__ == "__main__":  # doctests import every file
    runpy.run_path(sys.argv[1], run_name="__main__")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
