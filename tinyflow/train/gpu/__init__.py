"""What training does only on a GPU: captured steps, prefetched batches."""
