"""Groups of operators whose arrays stay in the scratchpad from one to the next."""
