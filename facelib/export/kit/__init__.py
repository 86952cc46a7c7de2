"""The kit for devices that this project cannot run: models, crops, expected embeddings and a script that judges."""
