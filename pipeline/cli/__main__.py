"""`python -m pipeline.cli`, which is `penstock`."""

from pipeline.cli.main import main

main()
