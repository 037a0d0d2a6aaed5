"""Counterexamples to properties of graphs: input boxes in the graph's own units, VNN-LIB, never a proof."""
