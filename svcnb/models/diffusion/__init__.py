"""Shallow diffusion: a denoiser of mel spectrograms that refines what a voice made."""
