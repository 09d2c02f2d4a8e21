"""What runs cost in energy, from their records: stages, totals, break-even points, fronts. No torch here."""
