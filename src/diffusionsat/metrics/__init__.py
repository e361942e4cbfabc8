"""Distances and scores as pure functions of tensors and arrays; they know no model, file or report.

Every docstring gives the formula, its range, which way is better, its unit and its source;
`diffusionsat.metrics.catalogue` has that for a report.
"""
