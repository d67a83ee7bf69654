"""`scripts/bench tools`: the tools an operator would use today against the product, for the same machines from the
same base image on one private host, in one run and in turns. Each tool is an adapter in a module of its own."""
