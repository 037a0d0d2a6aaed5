"""The model that is attacked, as one object: a checkpoint, a graph by way of torch, an engine that is only asked, or several.

Whatever it is, it is a function from images to logits, gives gradients (or says that it has none), knows the hash of what it was
read from, checks itself against what really runs, and is asked in the end in the form that runs.
"""
