"""Every pass, in pipeline order."""
