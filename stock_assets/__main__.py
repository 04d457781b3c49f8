"""``python -m stock_assets``."""

from stock_assets.cli import main

if __name__ == "__main__":
    main()
