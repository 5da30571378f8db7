"""Candles from the exchange into the store, and from the store into an immutable dataset. Does not import Prefect."""
