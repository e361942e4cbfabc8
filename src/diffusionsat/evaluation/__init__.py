"""Measures of a model: features, the measures of the compact model, protocols and reports."""
