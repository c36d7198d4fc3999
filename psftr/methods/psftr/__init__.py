"""PSFTR: a DETR-like localizer whose encoder, queries and classifier read the class names."""
