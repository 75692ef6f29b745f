"""From an experiment as a value to results on disk: train, learn, test, compare; resumable at any moment."""
