"""Persistent data and shared types: settings, schema, candles, datasets and versions. Does not import Prefect."""
