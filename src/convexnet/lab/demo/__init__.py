"""The demo: ordinary and convex networks on real digits, with clean and with wrong labels, and its page.

`contest.py` trains; `narrative.py` makes sentences of what was measured, `pictures.py` draws it, and `page.py` puts
both together. `convexnet demo` drives it (`cli/show_demo.py`).
"""
