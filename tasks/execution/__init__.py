"""Money: the decision, its accounting, its metrics and their significance. Pure."""
