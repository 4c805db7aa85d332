"""`python -m wuliart_client` is the command `wuliart`."""

from wuliart_client.cli import main

raise SystemExit(main())
