"""f0: estimators, tracks, and the networks behind them."""
