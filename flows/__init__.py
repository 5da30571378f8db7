"""When and in what order: Prefect flows, each runnable by hand with `python -m flows.<name>`."""
