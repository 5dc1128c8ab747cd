"""Dialects: what the IR can say."""
