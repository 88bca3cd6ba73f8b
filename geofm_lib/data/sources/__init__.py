"""Where images, labels and sides come from: folders, archives, tables, path patterns, scenes. No torch."""
