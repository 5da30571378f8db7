"""Bybit, through pybit, and its stand-in. I/O; knows no Prefect and no torch."""
