"""``python -m bpbench`` is ``bpbench``."""

from bpbench.cli import main

main()
