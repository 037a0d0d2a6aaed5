"""Possas & Zhou (ICONIP 2017): what they published, and how their cells are measured, judged and shown."""
