"""The demo: a small synthetic world, laid out like the real downloads."""
