"""Analysis of finished trials: plain numbers in, plain numbers out."""
