"""The rules of single operators, which the rows of `curvature.table` name: one file for each kind of operator."""
