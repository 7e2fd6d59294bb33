"""The Lemonade specification."""
