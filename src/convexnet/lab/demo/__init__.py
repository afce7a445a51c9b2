"""The demo: ordinary and convex networks on real digits, with clean and with wrong labels, and its page."""
