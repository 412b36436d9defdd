"""``python -m hangwatch``."""

from hangwatch.console import main

if __name__ == "__main__":
    main()
