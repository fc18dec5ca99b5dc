"""Named places at which a test can kill the process, to prove that a rerun mends what was left."""

import os

CRASH_VARIABLE = "CASPR_CRASH_AT"


def crash_point(name: str) -> None:
    """Die here, as by SIGKILL, if the environment asks for it; otherwise nothing."""
    if os.environ.get(CRASH_VARIABLE) == name:
        os._exit(137)
