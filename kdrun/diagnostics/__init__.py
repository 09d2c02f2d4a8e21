"""What finished runs say of when a student generalises like its teacher (docs/diagnostics.md)."""
