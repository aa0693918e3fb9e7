"""Manifests, recordings on disk, sessions and splits."""
