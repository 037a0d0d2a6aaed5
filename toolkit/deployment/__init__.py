"""From a checkpoint or a graph to the builds that are deployed."""
