"""Candles from the exchange into the store, from the store into an immutable dataset; knows no Prefect."""
