"""Helpers shared by the Fashion-MNIST notebooks: data, model, training, evaluation, plots, runs, pipeline."""
