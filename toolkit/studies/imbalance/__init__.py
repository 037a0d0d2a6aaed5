"""The study `imbalance` (Possas & Zhou, ICONIP 2017)."""
