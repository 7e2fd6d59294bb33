"""One module a revision; each is named in `store.models.REVISIONS` too."""
