"""The parts of the study of universal perturbations (Ma et al., IJCNN 2023)."""
