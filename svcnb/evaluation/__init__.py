"""How good a voice is: metrics, a run over sources, advice, plots and a page."""
