"""``fgan`` in one of several processes, as ``-m fgan_cli``, with faults: run by `torchrun.py`.

    python rank_command.py '{"RANK": ["FAULT", ARGUMENT, ...]}' train ...

A fault is a function of `process_faults.py`. Processes that torchrun has started again have none.
"""

from __future__ import annotations

import json
import os
import sys

import process_faults
from fgan_cli.main import main

if __name__ == "__main__":
    faults = json.loads(sys.argv.pop(1))
    fault = faults.get(os.environ.get("RANK", "0"))
    if fault and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        getattr(process_faults, fault[0])(*fault[1:])
    main()
