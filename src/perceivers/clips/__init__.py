"""Clips of video and sound through an autoencoder, and what comes out as files."""
