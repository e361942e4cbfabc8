"""The compact family: DiffusionSat's design in lean networks of plain torch."""
