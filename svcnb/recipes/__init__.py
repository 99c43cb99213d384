"""One file per model family: the only place that knows the order of the steps."""
