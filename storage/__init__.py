"""What outlives the process: settings, the shared vocabulary, candles, datasets and versions. Knows no Prefect."""
