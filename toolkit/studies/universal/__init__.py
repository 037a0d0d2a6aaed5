"""The study `universal` (Ma et al., IJCNN 2023)."""
