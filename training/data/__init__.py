"""Renderings and captions that the embedded model is trained on, from open emoji art.

Order of use: fetch -> icons -> select_concepts (rarely) -> concepts -> render -> captions.
`python -m training.data` runs all of it.
"""
