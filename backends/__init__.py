"""The backends that come with bpbench, a module or a folder each, found by bpbench.registry."""
