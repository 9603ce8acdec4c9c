"""The Redis back end of the ports: keys, scripts, store and task queue. The only package that imports `redis`."""
