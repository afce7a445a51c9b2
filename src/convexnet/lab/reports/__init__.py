"""Pages and pictures from records: the report of studies and of a user's own runs, and the page of a certificate.

`report.py` collects the sections of all studies into one page; `page.py` has what a section is made of, `comparison.py`
its tables, and the files `*pictures.py` its pictures. The demo's page and the studies are made of the same parts.
"""
