"""The search for a plan: ways to cut a program into groups, loops over each, chunks in each."""
