"""What joins market, network and execution into one trading idea, and puts it to the test. Knows no Prefect."""
