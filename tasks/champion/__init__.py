"""Which version trades: judged, promoted, served, watched, expired. Knows no Prefect."""
