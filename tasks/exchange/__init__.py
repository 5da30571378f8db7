"""Bybit, through pybit: requests, their pace, and what answers are read as. I/O; knows no Prefect and no torch."""
