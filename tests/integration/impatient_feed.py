"""Run `feed.replay` with shorter times: `NAME=SECONDS` arguments first, then those of the replay.

The times are constants of `feed.replay`, such as STUCK_SECONDS. A test that waits for one of them
would otherwise take ten seconds.
"""

import sys

from feed import replay

if __name__ == "__main__":
    while "=" in sys.argv[1]:
        name, _, seconds = sys.argv.pop(1).partition("=")
        getattr(replay, name)  # an unknown name is an error
        setattr(replay, name, float(seconds))
    replay.main()
