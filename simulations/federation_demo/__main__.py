"""`python -m palate.simulations.federation_demo`: see `demo`."""

from palate.simulations.federation_demo.demo import main

if __name__ == "__main__":
    main()
