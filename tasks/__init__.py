"""What a step does: Prefect tasks at the edge (`tasks/*.py`), and rooms of plain code that know no Prefect."""
