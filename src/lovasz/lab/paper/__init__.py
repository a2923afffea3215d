"""The paper's experiments, one file for each section: what it computes, its figures, its rows of the page.

A section file has `run(config, folder, ...)`, which writes FOLDER/result.json and pictures beside it, and
`section(result)`, which makes the rows of the page from that JSON alone; `page.py` lists the sections.
"""
