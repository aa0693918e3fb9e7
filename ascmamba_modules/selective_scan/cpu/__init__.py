"""The selective scan in C, for CPUs."""
