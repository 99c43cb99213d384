"""Evaluation of a voice: metrics, a run over recordings, advice, plots and a web page."""
