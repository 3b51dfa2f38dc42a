"""The backends that come with bpbench: one module per framework, found by bpbench.registry."""
