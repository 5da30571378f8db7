"""A simulated exchange on 127.0.0.1 that answers as Bybit does, with faults on demand."""
