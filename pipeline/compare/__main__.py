"""`python -m pipeline.compare`: print the comparison of the two paths."""

from pipeline.compare.summary import main

if __name__ == "__main__":
    main()
