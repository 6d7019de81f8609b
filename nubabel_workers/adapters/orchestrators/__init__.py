"""Orchestrators that answer while one waits: another service, a model, a fixed sentence."""
