"""The web viewer: a page that shows recorded runs, live and afterwards, and what serves it.

The page is built from `viewer/` of the repository (Preact, TypeScript) into `page/`, which the
package holds. Everything that it shows came from models and contexts: data, never markup.
"""
