"""What people look at: tables of layers and totals, and the JSON of a run."""
