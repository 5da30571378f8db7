"""What a run owes to whoever watches it, through Prefect: progress, its page, alerts; one run at a time a market."""
