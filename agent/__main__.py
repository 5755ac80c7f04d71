"""``python -m agent`` is ``hivel-agent``."""

from agent.cli import main

if __name__ == "__main__":
    main()
