"""The model card and the confusion matrix of a trained model."""
