"""Recursive Language Models."""
