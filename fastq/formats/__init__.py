"""How values are written: one module per format, and the types that an application adds."""
