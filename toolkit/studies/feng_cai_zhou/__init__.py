"""What the study `confuse` is made of (Feng, Cai and Zhou, 2019, arXiv:1905.09027)."""
