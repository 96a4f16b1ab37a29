"""The two command lines, started by ``train.py`` and ``analyze.py`` or as installed."""
