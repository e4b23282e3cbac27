"""Helpers shared by the Fashion-MNIST notebooks, in three layers.

What the notebooks import: data, parameters, model, augmentation, training, runs, evaluation, comparison, plots, lesson,
photo. Under it the machinery, in modules whose names begin with an underscore. Above it two headless tools, pipeline
and sweep, which the notebooks never import.
"""
