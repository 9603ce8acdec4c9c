"""The five kinds of process, each wired from the layers it needs and no others: imports decide how much memory it takes."""
