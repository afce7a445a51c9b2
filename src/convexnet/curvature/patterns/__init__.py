"""What several operators make together, where a rule alone has lost it: `curvature.walk` asks these files."""
