"""Control: reconcilers, one per noun; the only place where areas meet."""
