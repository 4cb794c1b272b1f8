"""Draws every page and plot: what a proof says, as one HTML file that needs nothing else.

```
release   the page of a release: figures, starts, latency, memory, checks
plots     its drawings, as inline SVG
page.css  light and dark, wide and narrow
```

No script, no font, no address outside the file; all text that comes from a server is escaped.
"""

from report.release import release_page

__all__ = ["release_page"]
