"""LEMONADE."""
