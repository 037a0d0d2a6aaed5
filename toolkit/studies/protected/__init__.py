"""The study `protected` (after Shen et al., 2022, arXiv:2101.12372)."""
