"""The study `confuse` (Feng, Cai and Zhou, 2019, arXiv:1905.09027)."""
