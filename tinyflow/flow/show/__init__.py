"""What was measured, shown: figures, tables, reports."""
